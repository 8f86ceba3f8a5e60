// What we want: the pointer's place, or the arrows' way.
"use strict";
let pointer = null;                 // where on the screen, while it is followed
let aim = [.5, .5], told = "", last = 0;
const STEER = 50;                   // milliseconds between two words of ours
const keys = new Set();

function steer() {
  const way = [+keys.has("right") - keys.has("left"), +keys.has("down") - keys.has("up")];
  const me = dots.get(you);
  if (me && (way[0] || way[1])) aim = [me.to[0] + way[0] * .2, me.to[1] + way[1] * .2];
  else if (me && keys.stopped) aim = me.to;
  else if (pointer) aim = [(pointer[0] - view.left) / view.scale, (pointer[1] - view.top) / view.scale];
  keys.stopped = false;
  aim = aim.map(part => Math.min(1, Math.max(0, +part.toFixed(3))));
  const now = performance.now(), words = JSON.stringify({to: aim});
  if (words === told || now - last < STEER || socket?.readyState !== WebSocket.OPEN) return;
  socket.send(words);
  [told, last] = [words, now];
}

const KEYS = {ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
  KeyA: "left", KeyD: "right", KeyW: "up", KeyS: "down"};
addEventListener("keydown", event => {
  const way = KEYS[event.code];
  if (!way || $("door").open || event.ctrlKey || event.metaKey || event.altKey) return;
  keys.add(way);
  pointer = null;
  event.preventDefault();
});
addEventListener("keyup", event => { if (keys.delete(KEYS[event.code])) keys.stopped = !keys.size; });
addEventListener("blur", () => keys.clear());
for (const kind of ["pointerdown", "pointermove"])
  $("world").addEventListener(kind, event => { pointer = [event.clientX, event.clientY]; });
