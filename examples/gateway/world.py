"""The world, a square: it moves everybody, and tells everybody where everybody is, 20 times a second."""

import json
from itertools import count, permutations, product
from math import dist
from random import random
from time import monotonic

from gws import skynet, websocket

TICK, STEP, RADIUS, LIGHTS, GOAL = 1 / 20, 0.018, 0.022, 12, 15  # lengths are parts of the world's


class Dot:
    def __init__(self, name):
        self.name, self.lights, self.at, self.to = name, 0, (random(), random()), (0.5, 0.5)

    def move(self, to, most):
        part = min(1, most / (dist(to, self.at) or 1))
        self.at = [round(min(1, max(0, here + (there - here) * part)), 4) for here, there in zip(self.at, to)]


class World:
    def __init__(self):
        self.dots, self.lights, self.numbers = {}, {}, count(1)  # dots: connection -> Dot; lights: number -> place
        skynet.fork(self.run)

    def enter(self, fd, name):
        self.dots[fd] = Dot(name)
        websocket.broadcast([fd], json.dumps({"you": fd.number, "goal": GOAL, "radius": RADIUS}))

    def steer(self, fd, *to):
        self.dots[fd].to = to

    def leave(self, fd):
        self.dots.pop(fd, None)

    def run(self):
        while True:
            skynet.sleep(1.1 * TICK - (monotonic() + 0.1 * TICK) % TICK)  # to the next tick; it may be a little early
            winners = self.turn([*self.dots.values()])
            dots = [(fd.number, dot.name, *dot.at, dot.lights) for fd, dot in self.dots.items()]
            websocket.broadcast(self.dots, json.dumps({"dots": dots, "lights": self.lights, "winners": winners}))

    def turn(self, dots):  # everybody moves, shoves, and takes the lights within reach; return who has won by that
        for dot in dots:
            dot.move(dot.to, STEP)
        for one, other in permutations(dots, 2):
            if dist(one.at, other.at) < 2 * RADIUS:
                one.move([2 * mine - yours for mine, yours in zip(one.at, other.at)], STEP / 2)
        for dot, number in product(dots, list(self.lights)):
            if number in self.lights and dist(dot.at, self.lights[number]) < 1.5 * RADIUS:
                dot.lights += bool(self.lights.pop(number))
        while len(self.lights) < LIGHTS:
            self.lights[next(self.numbers)] = random(), random()
        winners = [dot.name for dot in dots if dot.lights >= GOAL]
        for dot in dots if winners else ():
            dot.lights = 0
        return winners
