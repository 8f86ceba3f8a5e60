// How a player is drawn: a dot with a tail and a name; who is ahead wears a crown.
"use strict";

function draw_dot(pen, dot, mine, ahead) {
  const [x, y] = place(dot), size = radius * view.scale * (.75 + .25 * Math.min(1, dot.lights / (goal || 1)));
  dot.tail.forEach((at, index) => {
    pen.fillStyle = `hsl(${dot.hue} 85% 65% / ${.3 * index / HISTORY})`;
    disc(pen, ...place({x: at[0], y: at[1]}), size * (.2 + .7 * index / HISTORY));
  });
  glow(pen, x, y, size * 3, `hsl(${dot.hue} 90% 65% / .45)`);
  pen.fillStyle = `hsl(${dot.hue} 85% 68%)`;
  disc(pen, x, y, size);
  if (mine) {
    pen.strokeStyle = "#fff";
    pen.lineWidth = 2.5;
    pen.stroke();
  }
  pen.font = `${mine ? 700 : 500} 14px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.fillStyle = "#fff";
  pen.shadowColor = "#000";
  pen.shadowBlur = 4;
  pen.fillText(dot.name, x, y + size + 18);
  pen.shadowBlur = 0;
  if (ahead) draw_crown(pen, x, y - size - 4);
}

function draw_crown(pen, x, y) {
  pen.fillStyle = "#ffd76a";
  pen.beginPath();
  for (const [across, up] of [[-9, 0], [-11, 11], [-5, 6], [0, 14], [5, 6], [11, 11], [9, 0]])
    pen.lineTo(x + across, y - up);
  pen.fill();
}
