// What the server says, and what is known by that; also what all the other files use.
"use strict";
const $ = id => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let name = "";
let socket = null, tries = 0, timer = 0;
let you = 0, radius = .022, goal = 0;
let dots = new Map();               // number -> {name, lights, hue, x, y, from, to, at, tail}
let lights = new Map();             // number -> {x, y, born}
let sparks = [];                    // what is left of a light that was taken

function connect() {
  clearTimeout(timer);
  const mine = socket = new WebSocket(location.origin.replace(/^http/, "ws"));
  mine.onopen = () => { mine.send(JSON.stringify({name})); told = ""; };
  mine.onmessage = ({data}) => { if (mine === socket) hear(JSON.parse(data)); };
  mine.onclose = ({code, reason}) => { if (mine === socket) lost(code, reason); };
}

function lost(code, reason) {
  socket = null;
  you = 0;
  if (code === 1007 || code === 1008) return knock(reason);
  say("The connection is lost. Trying again…");
  timer = setTimeout(connect, Math.min(15e3, 500 * 2 ** tries++) * (.5 + Math.random() / 2));
}

function hear(said) {
  if (said.you) {
    ({you, radius, goal} = said);
    tries = 0;
    $("goal").textContent = `First to ${goal} lights`;
    $("scores").hidden = false;
    say("");
  } else if (you) {
    hear_dots(said.dots);
    hear_lights(said.lights);
    if (said.winners.length) celebrate(said.winners);
    steer();
  }
}

function hear_dots(heard) {
  const now = performance.now(), before = dots;
  dots = new Map(heard.map(([number, name, x, y, lights]) => {
    const dot = before.get(number) ?? {x, y, hue: number * 137.508 % 360, tail: []};
    return [number, Object.assign(dot, {name, lights, from: [dot.x, dot.y], to: [x, y], at: now})];
  }));
  show_scores();
}

function hear_lights(heard) {
  const now = performance.now(), before = lights;
  lights = new Map(Object.entries(heard).map(([number, [x, y]]) => [number, before.get(number) ?? {x, y, born: now}]));
  for (const [number, {x, y}] of before)
    if (!lights.has(number) && !calm.matches) sparks.push({x, y, born: now});
}

