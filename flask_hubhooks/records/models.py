"""The six tables, on a base of our own that is copied into the host's metadata."""

from __future__ import annotations

import enum
import hashlib
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    func,
    literal_column,
    select,
    text,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

from ..dialects import UTCDateTime, time_ordered_uuid, utcnow
from ..formats import DEFAULT_FORMAT, has_callback, has_digest
from ..sources import MAX_SOURCE_LENGTH

TEXT_LIMIT = 255
"""Characters of a text column in an index."""
ID_LIMIT = 2**63 - 1
"""The largest id that PostgreSQL's BIGINT and SQLite's INTEGER hold."""
NUMBER_LIMIT = 2**31 - 1
"""The largest value of PostgreSQL's INTEGER, which counts rounds and attempts."""

GIVE_UP_AFTER = timedelta(days=5)
"""How long a delivery is tried after it became due, and how long a hook may fail."""


DEFAULT_TIMEOUT_S = 15


class Status(str, enum.Enum):
    """The state of a delivery; its value is stored."""

    WAITING = "waiting"
    PENDING = "pending"
    AWAITING_CALLBACK = "awaiting_callback"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


UNSENT = (Status.WAITING, Status.PENDING)
"""Not received yet: Docker Hub's `pending`. These are cancelled when their webhook is deleted."""
UNDER_WAY = (Status.PENDING, Status.AWAITING_CALLBACK)
"""Their run depends on them: they are being sent, or their callback decides. They have a time to give up."""
UNFINISHED = (*UNSENT, Status.AWAITING_CALLBACK)
"""All that has not ended."""
FAILED = (Status.FAILED, Status.EXPIRED)
"""These end their run: later hooks are skipped."""

OUTCOMES: Mapping[str, tuple[Status, ...]] = {
    "succeeded": (Status.SUCCEEDED,),
    "under_way": UNDER_WAY,
    "failed": FAILED,
    "cancelled": (Status.CANCELLED,),
}
"""The outcomes of a run, each with the states of the delivery that decides it. Skipped and waiting ones never do."""

DOCKER_WORDS = ("pending", "success", "error")
"""Docker Hub's words for the state of a delivery."""


class Kind(str, enum.Enum):
    """A real push, or a test that an owner sent to try a webhook; its value is stored."""

    PUSH = "push"
    TEST = "test"


def _stored(kind: type[enum.Enum]) -> Enum:
    return Enum(kind, native_enum=False, length=20, values_callable=lambda members: [each.value for each in members])


RowId = Annotated[int, mapped_column(BigInteger().with_variant(Integer, "sqlite"))]
"""64 bits: a registry with 1,000 pushes a second uses up 31 bits in 25 days. SQLite numbers only INTEGER keys itself,
which have 64 bits there anyway."""


class Base(DeclarativeBase):
    """Our own base. `copy_tables` adds its tables to the host's."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UTCDateTime,
        str: Text,
        Status: _stored(Status),
        Kind: _stored(Kind),
    }


class Webhook(Base):
    """A name and hooks for the pushes of its scope. Deleting keeps the row, and frees the name."""

    __tablename__ = "hubhooks_webhook"
    __table_args__ = (
        # Partial indexes instead of constraints: if columns of a constraint change, PostgreSQL locks the row so that no
        # push can refer to it while the transaction is open in which the host deletes or renames a repository.
        *(
            Index(
                f"uq_hubhooks_webhook_{column}",
                "scope",
                column,
                unique=True,
                postgresql_where=text("deleted_id = 0"),
                sqlite_where=text("deleted_id = 0"),
            )
            for column in ("name", "slug")
        ),
        Index("ix_hubhooks_webhook_scope", "scope"),
        Index(
            "ix_hubhooks_webhook_unsettled",
            "scope",
            postgresql_where=text("unsettled"),
            sqlite_where=text("unsettled = 1"),
        ),
        Index(
            "ix_hubhooks_webhook_holds",
            "active",
            postgresql_where=text("holds"),
            sqlite_where=text("holds = 1"),
        ),
    )

    id: Mapped[RowId] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(String(255))
    """Its repository's name, or a pattern: `acme/*` for a namespace, `*` for the registry. See `scopes`."""
    name: Mapped[str] = mapped_column(String(255))
    slug: Mapped[str] = mapped_column(String(255))
    active: Mapped[bool] = mapped_column(default=True, server_default=true())
    """False while it is paused, or disabled for its `disabled_reason`."""
    holds: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It may have held deliveries, which a worker makes due once it is active."""
    expect_final_callback: Mapped[bool | None]
    """None: expected from chains, not from a single hook."""
    tag_filter: Mapped[str] = mapped_column(default="", server_default=text("''"))
    """The patterns of a `filters.Filter`, separated by spaces."""
    repository_filter: Mapped[str] = mapped_column(default="", server_default=text("''"))
    """The same for the names of repositories. Empty if the scope is a repository."""
    encrypted_secret: Mapped[bytes]
    encrypted_former_secret: Mapped[bytes | None]
    former_secret_until: Mapped[datetime | None]
    """Until then requests are also signed with the secret that was replaced."""
    encrypted_headers: Mapped[bytes | None]
    creator: Mapped[str]
    last_updater: Mapped[str]
    created: Mapped[datetime] = mapped_column(default=utcnow)
    last_updated: Mapped[datetime] = mapped_column(default=utcnow)
    disabled_reason: Mapped[str] = mapped_column(default="", server_default=text("''"))
    deleted_id: Mapped[RowId] = mapped_column(default=0, server_default="0")
    """0, or the row's own id once the webhook is deleted."""
    unsettled: Mapped[bool] = mapped_column(default=False, server_default=false())
    """The host deleted or renamed the repository, and a worker has yet to correct what was recorded meanwhile."""

    hooks: Mapped[list[Hook]] = relationship(
        primaryjoin="and_(Hook.webhook_id == Webhook.id, Hook.removed_at.is_(None))",
        order_by="Hook.position",
        back_populates="webhook",
    )

    @property
    def expects_final_callback(self) -> bool:
        """Whether the last hook is expected to call back."""
        can_call_back = not self.hooks or self.hooks[-1].has_callback
        return can_call_back and final_callback(self.expect_final_callback, len(self.hooks))


def final_callback(expect: bool | None, hooks: int) -> bool:
    """Whether the last hook is expected to call back: if `expect` is None, only in a chain."""
    return hooks > 1 if expect is None else expect


class Hook(Base):
    """One destination URL of a webhook. Removing it keeps the row, for the history."""

    __tablename__ = "hubhooks_hook"
    __table_args__ = (Index("ix_hubhooks_hook_webhook", "webhook_id"),)

    id: Mapped[RowId] = mapped_column(primary_key=True)
    webhook_id: Mapped[RowId] = mapped_column(ForeignKey("hubhooks_webhook.id", ondelete="CASCADE"))
    position: Mapped[int]
    hook_url: Mapped[str]
    """It may hold placeholders, which are filled when it is sent to."""
    payload_format: Mapped[str] = mapped_column(String(20), default=DEFAULT_FORMAT, server_default=DEFAULT_FORMAT)
    template: Mapped[str | None]
    """The JSON of the payload format `template`; None for all others."""
    supersede: Mapped[bool | None]
    """Whether a newer push of a tag supersedes older ones. None: if the payload format carries a digest."""
    tls: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    """A `transport.tls.TLS` of the hook's own, without what is empty; None for the default."""
    timeout_s: Mapped[int] = mapped_column(default=DEFAULT_TIMEOUT_S, server_default=str(DEFAULT_TIMEOUT_S))
    """How long one request may take in all; `HUBHOOKS_MAX_TIMEOUT_S` caps it."""
    encrypted_authorization: Mapped[bytes | None]
    """The Authorization header of the user name and password that were given in the URL."""
    failing_since: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    """When the last attempt since `failing_since` failed, to the hour."""
    failed_days: Mapped[int] = mapped_column(default=0, server_default="0")
    """The number of days on which attempts have failed since `failing_since`."""
    removed_at: Mapped[datetime | None]
    creator: Mapped[str]
    last_updater: Mapped[str]
    date_added: Mapped[datetime] = mapped_column(default=utcnow)
    last_updated: Mapped[datetime] = mapped_column(default=utcnow)

    webhook: Mapped[Webhook] = relationship(back_populates="hooks")

    @property
    def has_credentials(self) -> bool:
        """Whether its requests carry a user name and password of its own."""
        return self.encrypted_authorization is not None

    @property
    def has_callback(self) -> bool:
        """Whether its requests carry a callback URL; otherwise it cannot call back."""
        return has_callback(self.payload_format, self.template)

    @property
    def supersedes(self) -> bool:
        """Whether a newer push of a tag supersedes older ones at this hook."""
        return superseding(self.supersede, self.payload_format)


def superseding(supersede: bool | None, payload_format: str) -> bool:
    """The meaning of `supersede`: by default true for payload formats that carry a digest."""
    return has_digest(payload_format) if supersede is None else supersede


class Push(Base):
    """One tag that was pushed, with the details of the repository at that time."""

    __tablename__ = "hubhooks_push"
    __table_args__ = (
        UniqueConstraint("event_key", name="uq_hubhooks_push_event"),
        Index("ix_hubhooks_push_recent", "repository", "pushed_at"),
        Index("ix_hubhooks_push_tag", "repository", "tag", "pushed_at"),
        Index("ix_hubhooks_push_pusher", "repository", "pusher", "pushed_at"),
        Index(
            "ix_hubhooks_push_tag_look_up",
            "tag_look_up_at",
            postgresql_where=text("tag_look_up_at IS NOT NULL"),
            sqlite_where=text("tag_look_up_at IS NOT NULL"),
        ),
    )

    id: Mapped[RowId] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(MAX_SOURCE_LENGTH), default="", server_default=text("''"))
    """The registry that told us, such as `distribution`; empty if the host did."""
    event_key: Mapped[uuid.UUID | None]
    """The hash of source, event id, repository and tag, which finds repeated events; None without an event id."""
    kind: Mapped[Kind] = mapped_column(default=Kind.PUSH, server_default=Kind.PUSH.value)
    repository: Mapped[str] = mapped_column(String(255))
    tag: Mapped[str] = mapped_column(String(TEXT_LIMIT))
    digest: Mapped[str]
    media_type: Mapped[str]
    images: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """The digests of the images in an index; None for a single image."""
    pusher: Mapped[str] = mapped_column(String(TEXT_LIMIT))
    pushed_at: Mapped[datetime]
    snapshot: Mapped[dict[str, Any]] = mapped_column(JSON)
    """A `Repository.snapshot`, perhaps of an earlier version with fewer keys."""
    tag_look_up_at: Mapped[datetime | None]
    """When the registry is asked next whether it shows the tag; while it is being asked, when another worker may ask.
    None: nothing waits for the tag."""
    tag_awaited_until: Mapped[datetime | None]
    """When deliveries that wait for the tag are sent without it. None again once the registry has shown the tag."""

    @property
    def sent_without_tag(self) -> bool:
        """Whether its deliveries were sent although the registry did not show the tag."""
        return self.tag_awaited_until is not None and self.tag_look_up_at is None


class Delivery(Base):
    """One hook of one run. Its id is public: receivers see it as `webhook-id`. `transitions` writes its state."""

    __tablename__ = "hubhooks_delivery"
    __table_args__ = (
        UniqueConstraint("push_id", "webhook_id", "position", name="uq_hubhooks_delivery_chain"),
        Index("ix_hubhooks_delivery_hook", "hook_id"),
        Index("ix_hubhooks_delivery_history", "webhook_id", "pushed_at", "push_id"),
        # For the history of failures, cancelling and recovering: few deliveries beside those that succeeded.
        Index(
            "ix_hubhooks_delivery_unsucceeded",
            "webhook_id",
            "pushed_at",
            "push_id",
            postgresql_where=text("status <> 'succeeded'"),
            sqlite_where=text("status <> 'succeeded'"),
        ),
        # Claims and the sweep of overdue deliveries read only these, which hold no row that has ended. Claims skip from
        # one repository to the next, and from one hook to the next. No other index may fit their queries, which
        # therefore ask for no status: if nothing was due when PostgreSQL last analyzed the table, it would take any
        # index that fits, and read all of it for each repository.
        # Entries are not deduplicated: those that are due at the same time would share one, which PostgreSQL may keep
        # until all of them have been claimed, so each claim would read again what was claimed before.
        *(
            Index(
                name,
                *columns,
                "next_attempt_at",
                postgresql_where=text("next_attempt_at IS NOT NULL"),
                postgresql_with={"deduplicate_items": False},
                sqlite_where=text("next_attempt_at IS NOT NULL"),
            )
            for name, columns in (
                ("ix_hubhooks_delivery_due", ("repository_key",)),
                ("ix_hubhooks_delivery_hook_due", ("repository_key", "hook_id")),
            )
        ),
        # For the order of a tag's pushes: those that are pending by when they are due, all others by their push.
        Index(
            "ix_hubhooks_delivery_image",
            "hook_id",
            "ordered_image",
            "next_attempt_at",
            "push_id",
            postgresql_where=text("ordered_image IS NOT NULL"),
            sqlite_where=text("ordered_image IS NOT NULL"),
        ),
        # For releasing what was held for a webhook. Held deliveries are in no index of what is due.
        Index(
            "ix_hubhooks_delivery_held",
            "webhook_id",
            "push_id",
            postgresql_where=text("status = 'pending' AND next_attempt_at IS NULL"),
            sqlite_where=text("status = 'pending' AND next_attempt_at IS NULL"),
        ),
        Index(
            "ix_hubhooks_delivery_overdue",
            "give_up_at",
            postgresql_where=text("give_up_at IS NOT NULL"),
            sqlite_where=text("give_up_at IS NOT NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=time_ordered_uuid)
    push_id: Mapped[RowId] = mapped_column(ForeignKey("hubhooks_push.id", ondelete="CASCADE"))
    webhook_id: Mapped[RowId] = mapped_column(ForeignKey("hubhooks_webhook.id", ondelete="CASCADE"))
    hook_id: Mapped[RowId] = mapped_column(ForeignKey("hubhooks_hook.id", ondelete="CASCADE"))
    position: Mapped[int]
    chain_length: Mapped[int]
    callback_expected: Mapped[bool]
    repository_key: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"))
    """The `repository_key` of the webhook's scope at the time of the push: claims take turns by it."""
    pushed_at: Mapped[datetime]
    """The push's time, by which the history is ordered."""
    former_repository: Mapped[str | None] = mapped_column(String(255))
    """The name of its repository, once that was deleted or has left the webhook's namespace. The push itself may have
    another name since, and another repository may have this one."""
    ordered_image: Mapped[str | None]
    """`repository:tag` of the push if its hook keeps the order of a tag's pushes, see `superseding`. None for tests."""

    round: Mapped[int] = mapped_column(default=1, server_default="1")
    redelivered: Mapped[bool] = mapped_column(default=False, server_default=false())
    """An owner asked for this round, so that no newer push supersedes it."""
    status: Mapped[Status]
    reason: Mapped[str] = mapped_column(default="", server_default=text("''"))
    """Why it ended or is held, if no attempt and no callback shows that."""
    next_attempt_at: Mapped[datetime | None]
    """When it is due; while it is leased, when the lease ends. Urgent deliveries: see `transitions.URGENT_S`. None
    while it is held, see `holding`."""
    give_up_at: Mapped[datetime | None]
    """When a pending delivery fails, and one that awaits its callback expires."""
    retry_step: Mapped[int] = mapped_column(default=0, server_default="0")
    """The number of failed attempts in this round."""
    lease_token: Mapped[uuid.UUID | None]
    received_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]

    callback_state: Mapped[str] = mapped_column(default="", server_default=text("''"))
    callback_description: Mapped[str] = mapped_column(default="", server_default=text("''"))
    callback_context: Mapped[str] = mapped_column(default="", server_default=text("''"))
    callback_target_url: Mapped[str] = mapped_column(default="", server_default=text("''"))
    callback_at: Mapped[datetime | None]

    push: Mapped[Push] = relationship()
    webhook: Mapped[Webhook] = relationship()
    hook: Mapped[Hook] = relationship()
    attempts: Mapped[list[Attempt]] = relationship(order_by="Attempt.number", back_populates="delivery")
    if TYPE_CHECKING:  # a column_property, defined below: it counts rows of the next class
        attempt_count: Mapped[int]

    @property
    def due_at(self) -> datetime | None:
        """When the next attempt is due; None while one is in flight. An urgent one is due since it was recorded."""
        if self.lease_token or self.next_attempt_at is None:
            return None
        return max(self.next_attempt_at, self.created_at)

    @property
    def expires_at(self) -> datetime | None:
        """Until when it awaits its callback; None in any other state."""
        return self.give_up_at if self.status is Status.AWAITING_CALLBACK else None

    @property
    def docker_status(self) -> str:
        """Docker Hub's word for the state: pending, success (it was received) or error."""
        if self.received_at is not None:
            return "success"
        return "pending" if self.status in UNSENT else "error"


class Attempt(Base):
    """One HTTP request of a delivery, and its response."""

    __tablename__ = "hubhooks_attempt"

    delivery_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("hubhooks_delivery.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    round: Mapped[int]
    trigger: Mapped[str] = mapped_column(String(20))
    """push, test, chain (the hook before it succeeded), retry or redelivery."""
    hook_url: Mapped[str]
    payload_format: Mapped[str] = mapped_column(String(20), default=DEFAULT_FORMAT, server_default=DEFAULT_FORMAT)
    started_at: Mapped[datetime]
    duration_ms: Mapped[int]
    connect_ms: Mapped[int | None]
    wait_ms: Mapped[int | None]
    status_code: Mapped[int | None]
    error: Mapped[str]
    request_headers: Mapped[list[list[str]]] = mapped_column(JSON)
    request_body: Mapped[str | None]
    """Without its callback token. None if the attempt before it in the same round sent the same body."""
    response_headers: Mapped[list[list[str]]] = mapped_column(JSON)
    response_body: Mapped[bytes]
    response_truncated: Mapped[bool]
    certificate: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """A `transport.tls.Certificate` of the receiver that was refused."""

    delivery: Mapped[Delivery] = relationship(back_populates="attempts")


class Worker(Base):
    """The heartbeat of one worker process, which `workers` writes. Web processes read from it why deliveries wait."""

    __tablename__ = "hubhooks_worker"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    version: Mapped[str] = mapped_column(String(255))
    last_beat: Mapped[datetime]
    stopped: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It has ended in order, so nobody has to wait for beats that are missing."""
    suspended: Mapped[bool] = mapped_column(default=False, server_default=false())
    """RQ workers are suspended (`rq suspend`)."""
    redis_away: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It cannot reach Redis."""
    in_flight: Mapped[int] = mapped_column(default=0, server_default="0")
    open_breakers: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    """Each has a `hook_id`, an `origin` and `next_try_in_s`, counted from `last_beat`. See `workers.OpenBreaker`."""


Delivery.attempt_count = column_property(
    select(func.count()).where(Attempt.delivery_id == Delivery.id).correlate_except(Attempt).scalar_subquery()
)

webhooks = cast(Table, Webhook.__table__)
hooks = cast(Table, Hook.__table__)
pushes = cast(Table, Push.__table__)
deliveries = cast(Table, Delivery.__table__)
attempts = cast(Table, Attempt.__table__)
workers = cast(Table, Worker.__table__)

unsucceeded = deliveries.c.status != literal_column("'succeeded'")
"""In the words of the partial index: PostgreSQL would not recognise a bound parameter."""


Run = tuple[int, int]
"""The ids of a push and a webhook, which name a run."""


def same_run(one: Any, other: Any) -> ColumnElement[bool]:
    """Whether two deliveries are of one push to one webhook. Each is a row, a class or the columns of a table."""
    return and_(one.push_id == other.push_id, one.webhook_id == other.webhook_id)


def repository_key(scope: str) -> int:
    """A signed 64-bit hash of a scope: an index on it is smaller and faster than one on the text."""
    return int.from_bytes(hashlib.blake2b(scope.encode(), digest_size=8).digest(), "big", signed=True)


def copy_tables(metadata: MetaData) -> None:
    """Copy our tables into `metadata`, once, so that the host's `create_all` and migrations see them.

    The copies have SQLAlchemy's own types only: a migration script would name one of ours without importing it.
    """
    for table in Base.metadata.sorted_tables:
        if (f"{metadata.schema}.{table.name}" if metadata.schema else table.name) not in metadata.tables:
            for column in table.to_metadata(metadata).columns:
                if isinstance(column.type, UTCDateTime):
                    column.type = DateTime(timezone=True)
