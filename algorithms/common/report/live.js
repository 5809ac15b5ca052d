// Polls for the state of the run and a new version of the page, whose content it replaces; keeps scroll position, open
// sections and zoom.
{
  const EVERY = 2000; // milliseconds
  const bar = document.getElementById("live");
  const state = document.getElementById("live-state");
  const age = document.getElementById("live-age");
  const pause = document.getElementById("live-pause");
  let paused = false;

  function show(word, text, seconds) {
    bar.dataset.state = word;
    if (state.textContent !== text) state.textContent = text; // read out by screen readers, so only when it changes
    age.textContent = seconds === undefined ? "" : `last change ${ago(seconds)}`;
  }

  function ago(seconds) {
    const at = new Date(Date.now() - seconds * 1000);
    const long = seconds >= 86400;
    const passed = seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
    return long ? at.toLocaleString() : `${passed} ago (${at.toLocaleTimeString()})`;
  }

  async function update() {
    const answer = await fetch(".", { cache: "no-store" });
    if (!answer.ok) throw new Unreadable();
    const made = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (paused) return; // paused during the fetch
    const main = made.querySelector("main");
    const [links, found] = [document, made].map((page) => page.querySelector("nav"));
    if (links.innerHTML !== found.innerHTML) links.replaceWith(found); // a page has been added
    const old = document.querySelector("main");
    for (const part of old.querySelectorAll("details[open][id]")) {
      const same = main.querySelector(`#${CSS.escape(part.id)}`);
      if (same) same.open = true;
    }
    const scrolled = [...old.querySelectorAll("[tabindex][id]")].map((part) => [part.id, part.scrollLeft, part.scrollTop]);
    const active = document.activeElement;
    const kept = active.matches("summary") ? active.parentElement.id : active.id;
    main.style.minHeight = `${old.offsetHeight}px`; // keeps the scroll position until the charts are drawn
    old.replaceWith(main);
    charts.drawAll();
    main.style.minHeight = "";
    for (const [id, left, top] of scrolled) document.getElementById(id)?.scrollTo(left, top);
    const focused = kept && document.getElementById(kept);
    if (focused) (focused.querySelector("summary") ?? focused).focus({ preventScroll: true });
  }

  class Unreadable extends Error {}

  async function look() {
    if (!paused) {
      try {
        const answer = await fetch("state", { cache: "no-store" });
        if (!answer.ok) throw new Unreadable();
        const found = await answer.json();
        if (found.version !== document.querySelector("main").dataset.version) await update();
        if (!paused) show(found.word, found.text, found.age);
      } catch (error) {
        if (error instanceof Unreadable) show("unreadable", "The run folder can't be read at the moment");
        else if (bar.dataset.state !== "lost") {
          const now = new Date().toLocaleTimeString();
          show("lost", `The server of this page has ended (noticed at ${now}); what follows is the last state`);
        }
      }
    }
    setTimeout(look, EVERY);
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    show("paused", paused ? "Paused: this page is not updated" : "Waiting for updates");
  });
  look();
}
