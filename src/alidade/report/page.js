"use strict";
(() => {
  const root = document.documentElement;
  const { config, panels, steppers } = JSON.parse(document.getElementById("charts").textContent);
  const views = new Map();

  // ---- charts: SVG whose colours are CSS variables, so that a change of theme needs no redrawing
  const options = {
    mode: "vega-lite", actions: false, renderer: "svg", config, defaultStyle: false,
    tooltip: { theme: "alidade", disableDefaultStyle: true },
  };
  const draw = async (element) => {
    const spec = { ...panels[element.dataset.panel], width: "container", autosize: { type: "fit-x", contains: "padding" } };
    const { view } = await window.vegaEmbed(element, spec, options);
    element.style.minHeight = "";
    views.set(element.dataset.panel, view);
    if (chosen !== null && hasPaper(element.dataset.panel)) await view.signal("paper", chosen).runAsync();
  };

  // ---- the slider: sets one signal in every chart of its figure
  const step = (figure) => {
    const { steps, cells, signal } = steppers[figure.id];
    const input = figure.querySelector(".slider");
    const play = figure.querySelector(".play");
    const shown = figure.querySelector("output b");
    const charts = [...figure.querySelectorAll("[data-panel]")].map((e) => views.get(e.dataset.panel));
    const values = [...figure.querySelectorAll("[data-variant]")];
    const show = () => {
      const index = Number(input.value);
      shown.textContent = steps[index];
      input.setAttribute("aria-valuetext", `step ${steps[index]}`);
      input.style.setProperty("--at", `${(100 * index) / Math.max(1, steps.length - 1)}%`);
      for (const value of values) value.textContent = cells[value.dataset.variant][index];
      return Promise.all(charts.map((view) => view.signal(signal, steps[index]).runAsync()));
    };
    let timer = 0;
    const pause = () => {
      window.clearInterval(timer);
      timer = 0;
      figure.classList.remove("playing");
      play.setAttribute("aria-label", "Play through training");
    };
    const start = () => {
      if (Number(input.value) >= Number(input.max)) input.value = 0;
      const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      timer = window.setInterval(() => {
        if (Number(input.value) >= Number(input.max)) { pause(); return; }
        input.value = Number(input.value) + 1;
        show();
      }, calm ? 900 : Math.max(60, 6000 / steps.length));
      figure.classList.add("playing");
      play.setAttribute("aria-label", "Pause");
    };
    play.addEventListener("click", () => (timer ? pause() : start()));
    input.addEventListener("input", () => { pause(); show(); });
    return show();
  };

  // ---- the paper's curves: one choice for all charts that have them behind theirs
  const switches = [...document.querySelectorAll(".paper-switch input")];
  const hasPaper = (id) => Boolean(panels[id].datasets && "paper" in panels[id].datasets);
  let chosen = null;
  const showPaper = async (shown) => {
    chosen = shown;
    for (const box of switches) box.checked = shown;
    for (const [id, view] of views) if (hasPaper(id)) await view.signal("paper", shown).runAsync();
  };
  for (const box of switches) box.addEventListener("change", () => showPaper(box.checked));

  // ---- theme: as the system says until the reader chooses
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const remembered = (value) => {
    try {
      if (value) localStorage.setItem("alidade-theme", value);
      return localStorage.getItem("alidade-theme");
    } catch { return null; }
  };
  if (remembered()) root.dataset.theme = remembered();
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    remembered(root.dataset.theme);
  });

  // ---- contents: the section being read is marked
  const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      const link = links.get(entry.target.id === "finding" ? "main" : entry.target.id);
      document.querySelectorAll(".contents [aria-current]").forEach((a) => a.removeAttribute("aria-current"));
      document.querySelectorAll(".contents .open").forEach((item) => item.classList.remove("open"));
      if (!link) continue;
      link.setAttribute("aria-current", "true");
      for (let item = link.closest("li"); item; item = item.parentElement.closest("li")) item.classList.add("open");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("#finding, section, footer").forEach((part) => seen.observe(part));

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        button.textContent = "Copied";
      } catch {
        window.getSelection().selectAllChildren(button.previousElementSibling);
        button.textContent = "Selected";
      }
    });
  }

  // ---- charts are drawn one after another, those in sight first
  const waiting = new Set(document.querySelectorAll("[data-panel]"));
  const near = new Set();
  const sight = new IntersectionObserver((entries) => {
    for (const entry of entries) near[entry.isIntersecting ? "add" : "delete"](entry.target);
  }, { rootMargin: "400px 0px" });
  waiting.forEach((element) => sight.observe(element));
  const idle = window.requestIdleCallback || ((done) => window.setTimeout(done, 0));
  const pause = () => new Promise((done) => { idle(done, { timeout: 100 }); });
  const drawAll = async () => {
    while (waiting.size) {
      const next = [...near].find((element) => waiting.has(element)) || waiting.values().next().value;
      waiting.delete(next);
      await draw(next);
      await pause();
    }
    sight.disconnect();
  };

  window.alidadeReady = (async () => {
    await drawAll();
    for (const figure of document.querySelectorAll("[data-stepper]")) await step(figure);
    document.body.dataset.ready = "true";
  })();
})();
