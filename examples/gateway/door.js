// Around the meadow: the scores, a word, and the door.   The last of the files: it begins.
"use strict";
let shown = "";

function show_scores() {
  const order = [...dots].sort(([a, one], [b, other]) => other.lights - one.lights || a - b);
  const places = order.filter(([number], at) => at < 7 || number === you);
  const now = JSON.stringify(places.map(([number, {name, lights}]) => [number, name, lights]));
  if (now === shown) return;
  shown = now;
  $("list").replaceChildren(...places.map(([number, {name, lights, hue}]) => {
    const item = document.createElement("li"), who = document.createElement("bdi"), many = document.createElement("b");
    who.textContent = name;
    many.textContent = lights;
    item.className = number === you ? "you" : "";
    item.style.setProperty("--hue", hue);
    item.append(who, many);
    return item;
  }));
}

function say(text) {
  if ($("say").textContent !== text) $("say").textContent = text;
}

function celebrate(winners) {
  const words = `This round goes to ${winners.join(" and ")}.`;
  say(words);
  setTimeout(() => { if ($("say").textContent === words) say(""); }, 4e3);
}

function knock(why = "") {
  say(why && `The meadow said: ${why}`);
  if (!$("door").open) $("door").showModal();
  $("name").select();
}

$("door").addEventListener("cancel", event => event.preventDefault());
$("enter").addEventListener("submit", event => {
  name = $("name").value.trim();
  if (!name) return event.preventDefault();
  connect();
  $("world").focus({focusVisible: false});
});

knock();
draw();
