// Polls for a new version of the page and replaces its content; keeps scroll position, open sections and zoom.
{
  const EVERY = 2000; // milliseconds
  const state = document.getElementById("live-state");
  const pause = document.getElementById("live-pause");
  let paused = false;

  async function update() {
    const version = await (await fetch("version", { cache: "no-store" })).text();
    if (version === document.querySelector("main").dataset.version) return "up to date";
    const answer = await fetch(".", { cache: "no-store" });
    if (!answer.ok) return "the run folder can't be read at the moment";
    const made = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = made.querySelector("main");
    if (paused) return "paused"; // paused during the fetch
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
    return `updated at ${new Date().toLocaleTimeString()}`;
  }

  async function look() {
    if (!paused) {
      try {
        const found = await update();
        if (found !== "up to date" || state.dataset.lost) state.textContent = `Live: ${found}`;
        delete state.dataset.lost;
      } catch {
        state.textContent = "Live: the server has stopped; this is the last state";
        state.dataset.lost = "yes";
      }
    }
    setTimeout(look, EVERY);
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    state.textContent = paused ? "Live: paused" : "Live: waiting for updates";
  });
  setTimeout(look, EVERY);
}
