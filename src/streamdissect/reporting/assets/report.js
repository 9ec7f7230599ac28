"use strict";
// Serves every page of the report; whatever a page lacks is passed over.

const streamdissect = { showUnits: () => {} };

(function () {
  const root = document.documentElement;
  const find = (selector) => document.querySelector(selector);
  const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* not allowed from the disk */ } };
  const recall = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

  // Light or dark: what the system asks for, until the reader chooses; the page's head has put the choice in place.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = find("[data-action=theme]");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember("streamdissect-theme", root.dataset.theme);
    nameTheme();
  });
  system.addEventListener("change", nameTheme);
  nameTheme();

  // What is drawn on the pictures.
  const content = find("#content");
  const switches = { labels: ["labels", true], masks: ["plain", false] };
  function turn(action, on) {
    const button = find(`[data-action=${action}]`);
    const [name, shows] = switches[action];
    content.classList.toggle(name, on === shows);
    if (button) { button.hidden = false; button.setAttribute("aria-pressed", String(on)); }
    remember(`streamdissect-${action}`, on ? "on" : "off");
  }
  for (const action of Object.keys(switches)) {
    const button = find(`[data-action=${action}]`);
    if (!button) continue;
    const kept = recall(`streamdissect-${action}`);
    turn(action, kept ? kept === "on" : button.getAttribute("aria-pressed") === "true");
    button.addEventListener("click", () => turn(action, button.getAttribute("aria-pressed") !== "true"));
  }

  // The concepts of a unit beyond those that its page lists at once.
  const more = find("[data-action=rest]");
  if (more) {
    more.hidden = false;
    streamdissect.showConcepts = (concepts) => {
      const body = find("#concepts tbody"), rest = JSON.parse(find("#rest").textContent);
      for (let i = 0; i < rest.length; i += 2) {
        const [column, iou] = rest.slice(i, i + 2), [name, category] = concepts[column];
        const row = body.insertRow();
        const link = document.createElement("a");
        link.href = `../concepts/${column}.html`;
        link.textContent = name;
        row.insertCell().append(link);
        row.insertCell().textContent = category;
        for (const text of [(iou / 10000).toFixed(4), "", ""]) { const cell = row.insertCell(); cell.className = "n"; cell.textContent = text; }
      }
      more.remove();
    };
    more.addEventListener("click", () => {
      more.disabled = true;
      document.head.append(Object.assign(document.createElement("script"), { src: more.dataset.source }));
    });
  }

  // Search, sorting and filters of the index.
  const PER_PAGE = 24;
  const fields = ["search", "sort", "category", "detector", "layer"];
  const field = (name) => find(`#${name}`);
  let units = [], chosen = [], page = 0;
  const byIou = (a, b) => b.iou - a.iou || a.place - b.place;
  const collator = new Intl.Collator("en", { numeric: true });
  const orders = {
    iou: byIou,
    unit: (a, b) => a.place - b.place,
    concept: (a, b) => !a.concept - !b.concept || collator.compare(a.concept, b.concept) || byIou(a, b),
    category: (a, b) => !a.category - !b.category || collator.compare(a.category, b.category) || byIou(a, b),
  };

  function select() {
    const words = field("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [category, detector, layer] = ["category", "detector", "layer"].map((name) => field(name).value);
    chosen = units.filter((unit) => (!category || unit.category === category) && (!layer || unit.layer === layer)
      && (!detector || unit.detector === (detector === "1")) && words.every((word) => unit.text.includes(word)));
    chosen.sort(orders[field("sort").value] || byIou);
  }

  function draw() {
    const last = Math.max(0, Math.ceil(chosen.length / PER_PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    const begin = page * PER_PAGE;
    const shown = chosen.slice(begin, begin + PER_PAGE);
    field("cards").innerHTML = shown.map((unit) => unit.html).join("");
    field("count").textContent = shown.length
      ? `${begin + 1} to ${begin + shown.length} of ${chosen.length} units${chosen.length < units.length ? `, of ${units.length} in all` : ""}`
      : "No unit fits; search for less, or show all.";
    field("pager").hidden = last === 0;
    field("page").textContent = `Page ${page + 1} of ${last + 1}`;
    find("[data-action=previous]").disabled = page === 0;
    find("[data-action=next]").disabled = page === last;
    const state = new URLSearchParams(fields.map((name) => [name, field(name).value]).filter(([name, value]) => value && value !== (name === "sort" ? "iou" : "")));
    if (page) state.set("page", String(page + 1));
    try { history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search); } catch { /* stays as it is */ }
  }

  function turnPage(by) {
    const before = page;
    page += by;
    draw();
    if (page !== before) find("#units").scrollIntoView();
  }

  streamdissect.showUnits = (entries) => {
    units = entries.map(([layer, unit, concept, category, iou, detector, html], place) => ({
      layer, unit, concept, category, iou, html, place, detector: detector === 1,
      text: `${concept} ${category} ${layer}:${unit} unit ${unit}`.toLowerCase(),
    }));
    const state = new URLSearchParams(location.hash.slice(1));
    for (const name of fields) {
      const kept = state.get(name);
      if (kept !== null) field(name).value = kept;
      if (field(name).value === "" && field(name).options) field(name).selectedIndex = 0;
      field(name).addEventListener("input", () => { page = 0; select(); draw(); });
    }
    page = (parseInt(state.get("page"), 10) || 1) - 1;
    find("[data-action=previous]").addEventListener("click", () => turnPage(-1));
    find("[data-action=next]").addEventListener("click", () => turnPage(1));
    field("controls").hidden = field("keys").hidden = false;
    select();
    draw();
  };

  // Keys; none while text is typed.
  function step(by) {
    const links = [...document.querySelectorAll(".card h3 a")];
    const at = links.indexOf(document.activeElement);
    const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by];
    if (next) { next.focus(); next.closest(".card").scrollIntoView({ block: "nearest" }); }
    const link = find(`a[rel=${by > 0 ? "next" : "prev"}]`);
    if (link) link.click();
  }
  const keys = {
    "/": () => field("search") && field("search").focus(),
    j: () => step(1),
    k: () => step(-1),
    n: () => units.length && turnPage(1),
    p: () => units.length && turnPage(-1),
    l: () => { const button = find("[data-action=labels]"); if (button) button.click(); },
    m: () => { const button = find("[data-action=masks]"); if (button) button.click(); },
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && typing) {
      event.target.blur();
      if (event.target.id === "search") {
        event.target.value = "";
        page = 0; select(); draw();
      }
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
})();
