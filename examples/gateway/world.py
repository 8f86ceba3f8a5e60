"""The world, a square: it moves everybody, and tells everybody where everybody is, 20 times a second."""

import json
import time
from itertools import combinations, count, product
from math import dist, hypot
from random import random

import gws.websocket as ws
from gws import skynet

TICK, STEP, RADIUS, LIGHTS, GOAL = 1 / 20, 0.018, 0.022, 12, 15  # lengths are parts of the world's


class Dot:
    def __init__(self, number, name):
        self.number, self.name, self.lights = number, name, 0
        self.x, self.y = self.to = random(), random()

    def move(self, x, y, most):
        part = min(1, most / (dist((x, y), (self.x, self.y)) or 1))
        self.x = min(1, max(0, self.x + (x - self.x) * part))
        self.y = min(1, max(0, self.y + (y - self.y) * part))


class World:
    def __init__(self):
        self.dots, self.numbers = {}, count(1)
        self.lights = {next(self.numbers): (random(), random()) for _ in range(LIGHTS)}
        skynet.fork(self.run)

    def enter(self, fd, name):
        self.dots[fd] = Dot(next(self.numbers), name)
        ws.broadcast([fd], json.dumps({"you": self.dots[fd].number, "goal": GOAL, "radius": RADIUS}))

    def steer(self, fd, *to):
        self.dots[fd].to = to

    def leave(self, fd):
        self.dots.pop(fd, None)

    def run(self):
        while True:
            skynet.sleep(TICK - time.monotonic() % TICK)
            winner = self.turn(self.dots.values())
            dots = [(dot.number, dot.name, round(dot.x, 4), round(dot.y, 4), dot.lights) for dot in self.dots.values()]
            ws.broadcast(self.dots, json.dumps({"dots": dots, "lights": self.lights, "winner": winner}))

    def turn(self, dots):  # everybody moves, shoves, and takes the lights within reach; return who has won by that
        for dot in dots:
            dot.move(*dot.to, STEP)
        for one, other in combinations(dots, 2):
            across, down = one.x - other.x, one.y - other.y
            if hypot(across, down) < 2 * RADIUS:
                one.move(one.x + across, one.y + down, STEP / 2)
                other.move(other.x - across, other.y - down, STEP / 2)
        for dot, light in product(dots, list(self.lights)):
            if light in self.lights and dist((dot.x, dot.y), self.lights[light]) < 1.5 * RADIUS:
                del self.lights[light]
                self.lights[next(self.numbers)] = random(), random()
                dot.lights += 1
        winner = next((dot.name for dot in dots if dot.lights >= GOAL), None)
        for dot in dots:
            dot.lights *= winner is None
        return winner
