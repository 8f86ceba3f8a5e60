"""The world, a square: it moves everybody, and tells everybody where everybody is, 20 times a second."""

import json
import time
from itertools import count, permutations
from math import dist
from random import random

import gws.websocket as ws
from gws import skynet

TICK, STEP, RADIUS, LIGHTS, GOAL = 1 / 20, 0.018, 0.022, 12, 15  # lengths are parts of the world's


class Dot:
    def __init__(self, number, name):
        self.number, self.name, self.lights = number, name, 0
        self.at = self.to = random(), random()

    def move(self, to, most):
        part = min(1, most / (dist(to, self.at) or 1))
        self.at = [round(min(1, max(0, here + (there - here) * part)), 4) for here, there in zip(self.at, to)]


class World:
    def __init__(self):
        self.dots, self.lights, self.numbers = {}, {}, count(1)  # dots: connection -> Dot; lights: number -> place
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
            winner = self.turn([*self.dots.values()])
            dots = [(dot.number, dot.name, *dot.at, dot.lights) for dot in self.dots.values()]
            ws.broadcast(self.dots, json.dumps({"dots": dots, "lights": self.lights, "winner": winner}))

    def turn(self, dots):  # everybody moves, shoves, and takes the lights within reach; return who has won by that
        for dot in dots:
            dot.move(dot.to, STEP)
        for one, other in permutations(dots, 2):
            if dist(one.at, other.at) < 2 * RADIUS:
                one.move([2 * mine - yours for mine, yours in zip(one.at, other.at)], STEP / 2)
        for dot in dots:
            near = [number for number, at in self.lights.items() if dist(at, dot.at) < 1.5 * RADIUS]
            dot.lights += sum(1 for number in near if self.lights.pop(number))
        while len(self.lights) < LIGHTS:
            self.lights[next(self.numbers)] = random(), random()
        winner = next((dot.name for dot in dots if dot.lights >= GOAL), None)
        for dot in dots:
            dot.lights *= winner is None
        return winner
