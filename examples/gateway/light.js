// How a light is drawn, and what is left of one that was taken.
"use strict";

function disc(pen, x, y, size) {
  pen.beginPath();
  pen.arc(x, y, size, 0, 2 * Math.PI);
  pen.fill();
}

function glow(pen, x, y, size, color) {
  const shade = pen.createRadialGradient(x, y, 0, x, y, size);
  shade.addColorStop(0, color);
  shade.addColorStop(1, "transparent");
  pen.fillStyle = shade;
  disc(pen, x, y, size);
}

function draw_light(pen, light, now) {
  const [x, y] = place(light), grown = Math.min(1, (now - light.born) / 300);
  const breath = calm.matches ? 1 : 1 + .15 * Math.sin(now / 300 + light.x * 40);
  glow(pen, x, y, 24 * grown * breath, "#ffd76a66");
  pen.fillStyle = "#ffedb8";
  disc(pen, x, y, 4.5 * grown);
}

function draw_spark(pen, spark, age) {
  const [x, y] = place(spark);
  pen.strokeStyle = `hsl(45 100% 75% / ${1 - age})`;
  pen.lineWidth = 2;
  pen.beginPath();
  for (let ray = 0; ray < 8; ray++) {
    const [across, down] = [Math.cos(ray * Math.PI / 4), Math.sin(ray * Math.PI / 4)];
    pen.moveTo(x + across * (8 + 22 * age), y + down * (8 + 22 * age));
    pen.lineTo(x + across * (12 + 30 * age), y + down * (12 + 30 * age));
  }
  pen.stroke();
}
