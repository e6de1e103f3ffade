// Refreshes the page every two seconds and sends the form. It talks to this server only.
"use strict";

const byId = (id) => document.getElementById(id);
const PERIOD_MILLISECONDS = 2000;

// ---- The figures ----------------------------------------------------------------------------------------------------

// Does nothing while the page is hidden or text on it is selected.
async function refresh() {
  if (document.hidden || byId("live").contains(getSelection().anchorNode) && !getSelection().isCollapsed) return;
  try {
    const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
    const [now, before] = [page.getElementById("live"), byId("live")];
    before.replaceWith(now);
    document.title = page.title;
    offer(page.getElementById("model"));
    byId("lost").hidden = true;
  } catch {
    byId("lost").hidden = false;
  }
}

// Updates the list of models and keeps the selected one.
function offer(select) {
  const own = byId("model");
  if (!select || !own || select.innerHTML === own.innerHTML) return;
  const chosen = own.value;
  own.innerHTML = select.innerHTML;
  own.value = chosen;
  if (own.selectedIndex < 0) own.selectedIndex = 0;
  chooseKind();
}

// ---- The form -------------------------------------------------------------------------------------------------------

const form = byId("try");
let picture = null;

const kind = () => byId("model").selectedOptions[0]?.dataset.kind;

function chooseKind() {
  byId("picture-part").hidden = kind() !== "picture";
  byId("sentence-part").hidden = kind() !== "sentence";
  form.querySelector("button").disabled = !kind();
}

function takePicture(file) {
  if (!file) return;
  picture = file;
  const preview = byId("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
}

const element = (name, text, className) => {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
};

const duration = (seconds) =>
  seconds >= 1 ? `${seconds.toPrecision(3)} s` : seconds >= 1e-3 ? `${(seconds * 1e3).toPrecision(3)} ms` : `${(seconds * 1e6).toFixed(0)} µs`;

function tell(answer) {
  const list = element("ol", "", "labels");
  for (const { label, probability } of answer.labels) {
    const row = element("li", "");
    const bar = element("span", "", "bar");
    bar.style.setProperty("--share", probability);
    row.append(element("span", label, "label"), bar, element("span", `${(probability * 100).toFixed(1)} %`, "share"));
    list.append(row);
  }
  const { decode_seconds: decode, queue_seconds: queue, infer_seconds: infer, batch_size: rows } = answer;
  const ran = answer.cached ? "answered from the cache" : `queued ${duration(queue)}, computed in ${duration(infer)} in a batch of ${rows}`;
  const facts = `${answer.model}, version ${answer.version}: prepared in ${duration(decode)}, ${ran}.`;
  byId("answer").replaceChildren(list, element("p", facts, "hint"));
}

async function classify(event) {
  event.preventDefault();
  const body = kind() === "picture" ? picture : new Blob([byId("sentence").value.trim()]);
  const most = Number(form.dataset[`${kind()}Bytes`]);
  const fail = (text) => byId("answer").replaceChildren(element("p", text, "why"));
  if (!body?.size) return fail(kind() === "picture" ? "Choose a picture first." : "Write a sentence first.");
  if (body.size > most) return fail(`That is ${body.size} bytes; this form takes at most ${most}.`);
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const headers = byId("token").value ? { authorization: `Bearer ${byId("token").value}` } : {};
    const where = `/try?${new URLSearchParams({ model: byId("model").value, kind: kind() })}`;
    const answer = await fetch(where, { method: "POST", body, headers });
    const told = await answer.json();
    if (answer.status === 401) byId("token-part").hidden = false;
    answer.ok ? tell(told) : fail(`${told.code}: ${told.error}`);
  } catch {
    fail("The server does not answer.");
  } finally {
    button.disabled = false;
  }
}

if (form) {
  const drop = byId("drop");
  byId("model").addEventListener("change", chooseKind);
  byId("picture").addEventListener("change", (event) => takePicture(event.target.files[0]));
  drop.addEventListener("dragover", (event) => event.preventDefault());
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    takePicture(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => takePicture([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
  form.addEventListener("submit", classify);
  chooseKind();
}
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, PERIOD_MILLISECONDS);
