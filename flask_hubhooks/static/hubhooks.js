/* Extras for the pages of flask_hubhooks, which work without JavaScript: refresh states, rearrange forms without a new
   page, copy text, and close menus. */
"use strict";
(() => {
  const root = document.querySelector(".hubhooks");
  const announcer = document.getElementById("hubhooks-announcer");
  const MOVING_MS = 2000, RESTING_MS = 15000;

  const announce = (...texts) => { if (texts.length) announcer.textContent = texts.join("; "); };
  const page = async (url, options) => {
    const answer = await fetch(url, { headers: { Accept: "text/html" }, ...options });
    if (!answer.headers.get("Content-Type")?.startsWith("text/html")) throw new Error("no page");
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  };

  /* Replace the content of an element, and keep the focus where it was. */
  const nameOf = (element) => element.id || element.getAttribute("href") || element.getAttribute("formaction");
  const fill = (element, fresh) => {
    const focused = element.contains(document.activeElement) && nameOf(document.activeElement);
    const open = [...element.querySelectorAll("details[id]")].map((each) => [each.id, each.open]);
    element.replaceChildren(...fresh.childNodes);
    for (const [id, isOpen] of open) document.getElementById(id)?.toggleAttribute("open", isOpen);
    const again = focused ? [...element.querySelectorAll("[id], [href], [formaction]")].find((each) => nameOf(each) === focused) : null;
    if (again?.tagName !== "SUMMARY") again?.closest("details")?.toggleAttribute("open", true); // a chain that now folds
    again?.focus({ preventScroll: true });
    offerCopying(element);
  };

  /* Relative times are updated in place; other content is replaced only if it is new. Selected text stays until it
     is copied. */
  const times = (element) => [...element.querySelectorAll("time")];
  const timeless = (element) => {
    const copy = element.cloneNode(true);
    times(copy).forEach((each) => each.replaceChildren());
    return copy.innerHTML;
  };
  const shown = new WeakMap([...root.querySelectorAll("[data-live], [data-live] > tr")].map((each) => [each, timeless(each)]));
  const isNew = (element, fresh) => {
    const selected = getSelection();
    if (!selected.isCollapsed && selected.containsNode(element, true)) return false;
    const text = timeless(fresh);
    if (shown.get(element) !== text) {
      shown.set(element, text);
      return true;
    }
    const old = times(element);
    times(fresh).forEach((each, index) => { old[index].textContent = each.textContent; });
    return false;
  };

  /* Announce what a refresh has changed. */
  const refreshRow = (row, fresh) => {
    if (!isNew(row, fresh)) return [];
    const text = fresh.dataset.announce;
    const changed = text !== row.dataset.announce;
    if (changed) row.classList.add("changed");
    [...fresh.attributes].forEach((each) => each.name !== "class" && row.setAttribute(each.name, each.value));
    row.toggleAttribute("data-moving", fresh.hasAttribute("data-moving"));
    fill(row, fresh);
    return changed ? [text] : [];
  };

  const refreshRows = (rows, fresh) => {
    const wanted = [...fresh.children];
    [...rows.children].forEach((row) => wanted.some((each) => each.id === row.id) || row.remove());
    return wanted.flatMap((each, index) => {
      const row = document.getElementById(each.id);
      if (row) return refreshRow(row, each);
      shown.set(each, timeless(each));
      rows.insertBefore(each, rows.children[index] ?? null);
      each.classList.add("changed");
      return each.dataset.announce ?? [];
    });
  };

  const refresh = (element, fresh) => {
    if (element.tagName === "TBODY") return refreshRows(element, fresh);
    if (element.querySelector(".menu[open]") || !isNew(element, fresh)) return [];
    const before = element.querySelector("[data-announce]")?.dataset.announce;
    const after = fresh.querySelector("[data-announce]")?.dataset.announce;
    [...fresh.attributes].forEach((each) => element.setAttribute(each.name, each.value));
    element.toggleAttribute("data-moving", fresh.hasAttribute("data-moving"));
    fill(element, fresh);
    return after && after !== before ? [after] : [];
  };

  const live = () => [...root.querySelectorAll("[data-live]")];
  const refreshAll = async () => {
    if (!document.hidden) {
      try {
        const fresh = await page(root.querySelector("[data-here]")?.dataset.here ?? location.href);
        announce(...live().flatMap((element) => {
          const found = fresh.querySelector(`[data-live="${element.dataset.live}"]`);
          return found ? refresh(element, found) : [];
        }));
      } catch { /* the registry does not answer: try again next time */ }
    }
    wait();
  };
  let waiting;
  const wait = () => {
    clearTimeout(waiting);
    waiting = setTimeout(refreshAll, root.querySelector("[data-moving]") ? MOVING_MS : RESTING_MS);
  };
  if (live().length) {
    wait();
    document.addEventListener("visibilitychange", () => { if (!document.hidden) refreshAll(); });
  }

  /* Rearrange a form without saving: the server answers with the new form, which replaces the old one. */
  let asking, typing;
  const ask = async (form, action, selector) => {
    clearTimeout(typing);
    asking?.abort(); // an older response must not come after a newer one
    asking = new AbortController();
    const sent = new URLSearchParams(new FormData(form));
    sent.set("action", action);
    const url = form.getAttribute("action"); // form.action would be the buttons with that name
    const fresh = (await page(url, { method: "POST", body: sent, signal: asking.signal })).querySelector(selector);
    const shown = document.querySelector(selector);
    fill(shown, fresh);
    return shown;
  };
  const rearrange = async (control, action) => {
    const fields = control.closest("[data-fields]");
    try {
      const asked = ask(control.form, action, "[data-fields]");
      fields.inert = true; // anything typed meanwhile would be lost
      await asked;
    } catch {
      fields.inert = false;
      return false;
    }
    fields.inert = false;
    fields.querySelector("[autofocus]")?.focus();
    return true;
  };
  root.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-rearrange]");
    if (!button) return;
    event.preventDefault();
    if (!await rearrange(button, button.value)) button.form.requestSubmit(button);
  });
  root.addEventListener("change", (event) => {
    const { choice } = event.target.dataset;
    if (choice) rearrange(event.target, choice);
  });
  root.addEventListener("input", (event) => {
    const { preview } = event.target.dataset;
    if (!preview) return;
    clearTimeout(typing);
    typing = setTimeout(() => ask(event.target.form, "preview", `#${preview}`).catch(() => {}), 300);
  });

  const offerCopying = (within) => within.querySelectorAll("[data-copy]").forEach((each) => { each.hidden = false; });
  root.addEventListener("click", async (event) => {
    const id = event.target.dataset?.copy;
    if (!id) return;
    try {
      await navigator.clipboard.writeText(document.getElementById(id).textContent);
      announce(event.target.textContent = root.dataset.copied);
    } catch {
      getSelection().selectAllChildren(document.getElementById(id));
      announce(event.target.textContent = root.dataset.notCopied);
    }
  });
  offerCopying(root);

  /* Announce the notice, but not again when the page is reloaded. */
  const notice = root.querySelector(".notice");
  if (notice) {
    setTimeout(() => announce(notice.textContent), 100); // a live region announces only later changes
    const here = new URL(location.href);
    here.searchParams.delete("notice");
    history.replaceState(history.state, "", here);
  }

  /* Go on with what takes several requests. */
  const goesOn = root.querySelector("[data-goes-on]");
  goesOn?.form.requestSubmit(goesOn);

  const closeMenus = (except) => root.querySelectorAll(".menu[open]").forEach((each) => each === except || (each.open = false));
  document.addEventListener("click", (event) => closeMenus(event.target.closest(".menu")));
  root.addEventListener("focusout", (event) => {
    const menu = event.target.closest(".menu[open]");
    if (menu && event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  root.addEventListener("keydown", (event) => {
    const menu = event.target.closest(".menu[open]");
    if (menu && event.key === "Escape") {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
})();
