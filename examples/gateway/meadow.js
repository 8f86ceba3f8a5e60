// What is shown: the world covers the window, which follows us over the rest.
"use strict";
const TICK = 50;                    // milliseconds between two states
const HISTORY = 14;                 // places that a tail remembers
let view = {scale: 1, left: 0, top: 0};

function draw() {
  requestAnimationFrame(draw);
  const canvas = $("world"), pen = canvas.getContext("2d"), now = performance.now();
  const ratio = Math.min(devicePixelRatio, 2), wide = innerWidth, high = innerHeight;
  if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(high * ratio))
    [canvas.width, canvas.height] = [Math.round(wide * ratio), Math.round(high * ratio)];
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  for (const dot of dots.values()) glide(dot, now);
  look(wide, high);
  draw_ground(pen, wide, high);
  for (const light of lights.values()) draw_light(pen, light, now);
  sparks = sparks.filter(spark => now - spark.born < 500);
  for (const spark of sparks) draw_spark(pen, spark, (now - spark.born) / 500);
  const best = Math.max(1, ...[...dots.values()].map(dot => dot.lights));
  for (const [number, dot] of dots) draw_dot(pen, dot, number === you, dot.lights === best);
}

function glide(dot, now) {
  const part = Math.min(1, (now - dot.at) / TICK);
  dot.x = dot.from[0] + (dot.to[0] - dot.from[0]) * part;
  dot.y = dot.from[1] + (dot.to[1] - dot.from[1]) * part;
  if (calm.matches || now - (dot.seen ?? 0) < 25) return;
  dot.seen = now;
  dot.tail = [...dot.tail, [dot.x, dot.y]].slice(-HISTORY);
}

function look(wide, high) {
  const edge = 36, scale = Math.max(wide, high) - 2 * edge, me = dots.get(you) ?? {x: .5, y: .5};
  const along = (size, at) => size >= scale + 2 * edge ? (size - scale) / 2
    : Math.min(edge, Math.max(size - scale - edge, size / 2 - at * scale));
  view = {scale, left: along(wide, me.x), top: along(high, me.y)};
}

const place = ({x, y}) => [view.left + x * view.scale, view.top + y * view.scale];

function draw_ground(pen, wide, high) {
  pen.fillStyle = "#0b1020";
  pen.fillRect(0, 0, wide, high);
  const {left, top, scale} = view;
  const shade = pen.createLinearGradient(0, top, 0, top + scale);
  shade.addColorStop(0, "#141d3c");
  shade.addColorStop(1, "#10302f");
  pen.fillStyle = shade;
  pen.beginPath();
  pen.roundRect(left - 20, top - 20, scale + 40, scale + 40, 28);
  pen.fill();
  pen.fillStyle = "#ffffff12";
  for (let x = 0; x <= 20; x++)
    for (let y = 0; y <= 20; y++) disc(pen, left + x * scale / 20, top + y * scale / 20, 1.3);
}
