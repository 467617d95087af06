"use strict";
(() => {
  const root = document.documentElement;
  const every = (selector, where = document) => [...where.querySelectorAll(selector)];
  const said = document.getElementById("said");
  let quiet;
  const say = (text) => {
    said.textContent = text;
    clearTimeout(quiet);
    quiet = setTimeout(() => { said.textContent = ""; }, 2500);
  };

  // Light and dark: the system's choice until the switch is used.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const themed = () => {
    const axis = { gridcolor: colour("--rule"), linecolor: colour("--rule"), zerolinecolor: colour("--rule") };
    return { ink: colour("--ink"), axis, ground: colour("--ground") };
  };
  const button = document.getElementById("theme");
  const plots = [];
  const paint = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    const { ink, axis, ground } = themed();
    for (const plot of plots) {
      const change = { "font.color": ink, "hoverlabel.bgcolor": ground, "hoverlabel.font.color": ink };
      for (const side of ["xaxis", "yaxis"]) {
        for (const key of Object.keys(axis)) change[`${side}.${key}`] = axis[key];
      }
      Plotly.relayout(plot, change);
    }
  };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; paint(); });
  system.addEventListener("change", paint);

  // Figures. They take no drags, so that a finger scrolls the page.
  const draw = (plot) => {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    const { ink, axis, ground } = themed();
    const fixed = { fixedrange: true, ...axis };
    const family = getComputedStyle(document.body).fontFamily;
    Plotly.newPlot(plot, data, {
      ...layout,
      xaxis: { ...layout.xaxis, ...fixed },
      yaxis: { ...layout.yaxis, ...fixed },
      margin: { l: 12, r: 14, t: 12, b: 12 },
      font: { family, size: 12, color: ink },
      hoverlabel: { bgcolor: ground, bordercolor: colour("--soft"), font: { family, color: ink }, align: "left" },
      hovermode: "closest", dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    }, { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false });
    plots.push(plot);
  };
  every(".plot").forEach(draw);
  button.textContent = isDark() ? "Light" : "Dark";
  every(".key button").forEach((key) => key.addEventListener("click", () => {
    const shown = key.getAttribute("aria-pressed") !== "true";
    key.setAttribute("aria-pressed", String(shown));
    for (const plot of every(".plot", key.closest(".panels"))) {
      const own = plot.data.map((trace, n) => trace.meta === key.dataset.meta ? n : -1).filter((n) => n >= 0);
      if (own.length) Plotly.restyle(plot, { visible: shown }, own);
    }
  }));

  // Tables: sorted by their heads, copied as they stand.
  const valueOf = (cell) => {
    const text = cell.dataset.value;
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text;
  };
  const compared = (one, other) => {
    if (one === "" || other === "") return (one === "") - (other === "");
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), undefined, { numeric: true });
  };
  every("button.sort").forEach((head) => head.addEventListener("click", () => {
    const cell = head.parentElement, column = cell.cellIndex, body = cell.closest("table").tBodies[0];
    const rows = [...body.rows];
    const numeric = rows.some((row) => typeof valueOf(row.cells[column]) === "number");
    const before = cell.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numeric;
    every("th", cell.parentElement).forEach((one) => one.removeAttribute("aria-sort"));
    cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((one, other) => {
      const [a, b] = [valueOf(one.cells[column]), valueOf(other.cells[column])];
      return a === "" || b === "" ? compared(a, b) : (down ? -1 : 1) * compared(a, b);
    });
    body.append(...rows);
  }));
  const quoted = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const csvOf = (table) => [...table.rows].map((row) => [...row.cells].map((cell) =>
    quoted(cell.dataset.value ?? cell.innerText.trim())).join(",")).join("\n") + "\n";
  const copied = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* the older way below */ }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  every("button.copy").forEach((copy) => copy.addEventListener("click", async () => {
    const done = await copied(csvOf(copy.closest(".tabled").querySelector("table")));
    copy.focus();
    say(done ? "The table is in the clipboard." : "The browser does not allow copying.");
  }));

  // Before and after.
  every(".change").forEach((change) => {
    const range = change.querySelector("input");
    range.addEventListener("input", () => change.style.setProperty("--cut", `${range.value}%`));
  });

  // Strengths.
  every(".modulation").forEach((block) => {
    const { strengths, values, frames } = JSON.parse(block.querySelector(".frames-data").textContent);
    const range = block.querySelector("input"), plot = block.querySelector(".plot");
    const show = () => {
      const place = Number(range.value), strength = strengths[place];
      block.querySelector("output").textContent = String(strength);
      range.setAttribute("aria-valuetext", `strength ${strength}`);
      every("dd[data-name]", block).forEach((reading) => {
        const value = values[reading.dataset.name][place];
        reading.textContent = value === null ? "unknown" : Number(value.toPrecision(4)).toString();
      });
      every(".frames figure", block).forEach((frame) => {
        const state = frames[frame.dataset.title][place], image = frame.querySelector("img");
        if (image) { image.src = state.content; image.alt = state.label; }
        else frame.querySelector(".sample").textContent = state.content;
        frame.querySelector(".note").textContent = state.note;
      });
      Plotly.relayout(plot, { shapes: [{ type: "line", x0: strength, x1: strength, yref: "paper", y0: 0, y1: 1,
        line: { color: "#888888", width: 2, dash: "dot" } }] });
    };
    range.addEventListener("input", show);
    show();
  });
  root.dataset.ready = "true";
})();
