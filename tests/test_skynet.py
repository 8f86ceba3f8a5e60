"""Services: addresses, commands, answers, and what becomes of those who wait for the dead."""

from __future__ import annotations

import functools
import logging
import random
import sys
import types

import gevent
import pytest
from conftest import until
from gevent.event import Event
from gevent.threadpool import ThreadPool
from greenlet import GreenletExit

from gws import skynet
from gws.errors import CallFailed, ServiceError, ServiceExited
from gws.queue import waiting


@pytest.fixture(autouse=True)
def no_services():
    """No service survives a test."""
    yield
    for service in skynet.services():
        skynet.kill(service.address)


def turn():
    """Let the hub do what can be done at once."""
    for _ in range(5):
        gevent.sleep(0)


def outcome(func, *args):
    """Return what `func` returns or raises."""
    try:
        return func(*args)
    except Exception as err:
        return err


def elsewhere(func):
    """Return what `func` returns in another thread, whose hub ends with it."""
    pool = ThreadPool(1)
    try:
        return pool.apply(func)
    finally:
        pool.kill()


class Room:
    """A service with one of everything."""

    limit = 3
    made: list[Room] = []

    class Config:
        """Callable, but no method."""

    def __init__(self, name="hall", *, size=2):
        self.name, self.size = name, size
        self.said = []
        self.callback = print
        self.go = Event()
        self.made.append(self)

    def say(self, *words):
        self.said.append(words)
        return words

    def get(self, key):
        return getattr(self, key)

    def fail(self, err):
        raise err

    def hang(self):
        self.go.wait()
        return "gone"

    def do(self, func, *args):
        return func(*args)

    @staticmethod
    def add(a, b):
        return a + b

    @classmethod
    def kind(cls):
        return cls.__name__

    @property
    def full(self):
        raise AssertionError("a property is no command")

    @functools.cached_property
    def filled(self):
        raise AssertionError("nor is a cached one")

    builtin = print
    partial = functools.partial(print)

    def _private(self):
        raise AssertionError("a private method is no command")


@pytest.fixture
def room():
    """Return (address, instance) of a Room."""
    Room.made.clear()
    address = skynet.newservice(Room)
    return address, Room.made[0]


# newservice


def test_a_service_is_made_with_its_arguments():
    address = skynet.newservice(Room, "cellar", size=9)
    assert (skynet.call(address, "get", "name"), skynet.call(address, "get", "size")) == ("cellar", 9)


def test_addresses_are_never_used_again():
    first = skynet.newservice(Room)
    skynet.kill(first)
    assert skynet.newservice(Room) != first
    assert first[0] == ":"
    assert len(first) == 9


@pytest.fixture
def chat_room(monkeypatch):
    """A module `chat_room` with a class ChatRoom."""
    module = types.ModuleType("chat_room")
    module.room_size, module.chat_room, module.ChatRoom, module.Other = 5, "no class", Room, Event
    monkeypatch.setitem(sys.modules, "chat_room", module)


@pytest.mark.parametrize("name", ["chat_room", "chat_room:ChatRoom", "chat_room.ChatRoom"])
def test_a_service_is_named_by_its_module(chat_room, name):
    assert skynet.call(skynet.newservice(name), "kind") == "Room"


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("chat_room:Nobody", ValueError, "chat_room has no class Nobody: say 'chat_room:Class'"),
        ("chat_room:room_size", ValueError, "has no class room_size"),
        ("gws.errors", ValueError, "gws.errors has no class of its name"),
        ("gws.nothing", ModuleNotFoundError, "gws.nothing"),
        ("gws.errors.Nothing", ModuleNotFoundError, "gws.errors.Nothing"),
        ("gws.errors.annotations", ModuleNotFoundError, "gws.errors.annotations"),
        ("nothing.at.all", ModuleNotFoundError, "nothing"),
        ("nothing", ModuleNotFoundError, "nothing"),
        ("", ValueError, "mpty module name"),
        (7, TypeError, "not from 7"),
        (None, TypeError, "not from None"),
        (Room(), TypeError, "not from <"),
    ],
)
def test_what_is_no_service(chat_room, name, error, text):
    with pytest.raises(error, match=text):
        skynet.newservice(name)
    assert skynet.services() == []


class Stillborn:
    """Its constructor starts things, then fails."""

    log: list[object] = []

    def __init__(self, err):
        self.log.clear()
        self.log.append(skynet.self())
        skynet.name(".stillborn", skynet.self())
        skynet.fork(self.tick)
        skynet.timeout(0, lambda: self.log.append("timeout"))
        gevent.spawn(lambda: self.log.append(outcome(skynet.call, self.log[0], "tick")))
        skynet.sleep(0)
        raise err

    def tick(self):
        try:
            Event().wait()
        finally:
            self.log.append("tick ended")


@pytest.mark.parametrize("err", [KeyError("bob"), CallFailed("deep"), ServiceExited("dead"), gevent.Timeout(9)])
def test_a_constructor_that_raises_leaves_nothing_behind(err):
    with pytest.raises(type(err)) as caught:
        skynet.newservice(Stillborn, err)
    assert caught.value is err
    assert skynet.services() == []
    turn()
    address, *rest = Stillborn.log
    assert [word for word in rest if isinstance(word, str) and word != "timeout"] == ["tick ended"]
    assert [type(word) for word in rest if not isinstance(word, str)] == [ServiceExited]  # the call that came meanwhile
    assert isinstance(outcome(skynet.call, address, "tick"), ServiceExited)
    assert isinstance(outcome(skynet.call, ".stillborn", "tick"), ServiceExited)


def test_a_constructor_may_exit():
    class Shy:
        def __init__(self):
            skynet.exit()

    with pytest.raises(ServiceExited, match=r"Shy\.__init__: the service exited before it answered"):
        skynet.newservice(Shy)


def test_a_service_may_be_killed_while_its_constructor_runs():
    class Slow:
        def __init__(self):
            made.append(skynet.self())
            try:
                Event().wait()
            finally:
                made.append("ended")

    made = []
    maker = gevent.spawn(outcome, skynet.newservice, Slow)
    turn()
    caller = gevent.spawn(outcome, skynet.call, made[0], "say")
    unheard = gevent.spawn(outcome, skynet.query, ".slow")
    turn()
    assert skynet.kill(made[0]) is True
    gevent.joinall([maker, caller])
    assert isinstance(maker.get(), ServiceExited)
    assert isinstance(caller.get(), CallFailed)  # it has no such command, made or not
    assert made[1:] == ["ended"]
    assert skynet.services() == []
    unheard.kill()


def test_a_constructor_may_be_given_up():
    class Slow:
        def __init__(self):
            try:
                Event().wait()
            finally:
                ended.append(True)

    ended = []
    with gevent.Timeout(0, False):
        skynet.newservice(Slow)
    assert skynet.services() == []
    turn()
    assert ended == [True]


def test_a_service_may_be_killed_before_its_constructor_begins():
    maker = gevent.spawn(outcome, skynet.newservice, Room)
    gevent.get_hub().loop.run_callback(lambda: skynet.kill(skynet.services()[0].address))
    assert isinstance(maker.get(), (ServiceExited, str))
    Room.made.clear()


def test_messages_wait_until_the_service_is_made():
    class Late:
        def __init__(self):
            self.ready = False
            skynet.send(skynet.self(), "look")
            caller.append(gevent.spawn(skynet.call, skynet.self(), "look"))
            skynet.sleep(0)
            turn()
            self.ready = True

        def look(self):
            seen.append(self.ready)
            return self.ready

    seen, caller = [], []
    skynet.newservice(Late)
    assert caller[0].get() is True
    assert seen == [True, True]


# call and send


def test_call_returns_what_the_command_returns(room):
    address, it = room
    assert skynet.call(address, "say", 1, "two") == (1, "two")
    words = ["nothing is copied"]
    assert skynet.call(address, "say", words)[0] is words
    assert skynet.call(address, "hang".replace("hang", "get"), "said") is it.said


@pytest.mark.parametrize(("command", "args", "answer"), [("add", (1, 2), 3), ("kind", (), "Room")])
def test_static_and_class_methods_are_commands(room, command, args, answer):
    assert skynet.call(room[0], command, *args) == answer


def test_inherited_methods_are_commands():
    class Attic(Room):
        def say(self, *words):
            return "hush", super().say(*words)

    address = skynet.newservice(Attic)
    assert skynet.call(address, "say", 1) == ("hush", (1,))
    assert skynet.call(address, "add", 1, 1) == 2


def test_decorated_methods_are_commands():
    class Attic(Room):
        say = None  # no longer

        @functools.cache  # noqa: B019  # it ends with the test
        def cached(self):
            return "cached"

        @functools.singledispatchmethod
        def single(self, what):
            return "single"

        @functools.wraps(Room.add)
        def wrapped(self):
            return "wrapped"

        partial = functools.partialmethod(Room.get, "name")

    address = skynet.newservice(Attic)
    asked = [skynet.call(address, *words) for words in (("cached",), ("single", 1), ("wrapped",), ("partial",))]
    assert asked == ["cached", "single", "wrapped", "hall"]
    assert isinstance(outcome(skynet.call, address, "say"), CallFailed)


COMMANDS = "add, do, fail, get, hang, kind, say"


@pytest.mark.parametrize("ask", [skynet.call, skynet.send])
@pytest.mark.parametrize(
    "command",
    [
        *("shout", "_private", "__init__", "__class__", "limit", "full", "filled", "Config", "builtin", "partial"),
        *("callback", "name", "made", "mro", "", 7),
    ],
)
def test_what_is_no_public_method_is_no_command(room, ask, command):
    with pytest.raises(CallFailed) as caught:
        ask(room[0], command)
    assert str(caught.value) == f"{room[0]} Room.{command}: no such command; there are: {COMMANDS}"


def test_a_service_without_commands():
    class Mute:
        pass

    with pytest.raises(CallFailed, match="no such command; there are: none"):
        skynet.call(skynet.newservice(Mute), "say")


@pytest.mark.parametrize("ask", [skynet.call, skynet.send])
@pytest.mark.parametrize("address", [":0", ".nobody", "", "gate", None, 7])
def test_a_dead_address(ask, address):
    with pytest.raises(ServiceExited, match=f"there is no service {address!r}"):
        ask(address, "say")


def test_what_a_command_raises(room):
    err = KeyError("bob")
    with pytest.raises(CallFailed) as caught:
        skynet.call(room[0], "fail", err)
    assert caught.value.__cause__ is err
    assert str(caught.value) == f"{room[0]} Room.fail: KeyError('bob')"


def test_wrong_arguments_are_a_failed_call(room):
    with pytest.raises(CallFailed) as caught:
        skynet.call(room[0], "add", 1)
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("err", [gevent.Timeout(9), GreenletExit("by hand")])
def test_what_is_no_exception_is_a_failed_call_too(room, err):
    with pytest.raises(CallFailed) as caught:
        skynet.call(room[0], "fail", err)
    assert caught.value.__cause__ is err


@pytest.mark.parametrize("waits", [False, True])
def test_a_system_error_goes_to_the_main_greenlet(room, waits):
    def leave():
        if waits:
            skynet.sleep(0)
        raise SystemExit(3)

    caller = gevent.spawn(outcome, skynet.call, room[0], "do", leave)
    skynet.send(room[0], "say", "after")
    with pytest.raises(SystemExit):
        caller.join()
    assert isinstance(caller.get(), CallFailed)
    assert skynet.call(room[0], "get", "said") == [("after",)]


def test_messages_of_one_sender_start_in_order(room):
    for number in range(200):
        skynet.send(room[0], "say", number)
    assert skynet.call(room[0], "say", 200) == (200,)
    assert [words[0] for words in room[1].said] == list(range(201))


def test_each_message_has_a_greenlet_of_its_own(room):
    skynet.send(room[0], "hang")
    assert skynet.call(room[0], "say", "past it") == ("past it",)


def test_a_service_with_much_to_do_lets_others_go_on(room):
    other = skynet.newservice(Room)
    for number in range(1000):
        skynet.send(room[0], "say", number)
    skynet.call(other, "say", "hello")
    assert len(room[1].said) < 1000


def test_the_failure_of_a_sent_message_is_logged(room, caplog):
    skynet.send(room[0], "fail", KeyError("bob"))
    skynet.call(room[0], "do", skynet.send, room[0], "fail", KeyError("ann"))
    turn()
    assert [record.getMessage() for record in caplog.records] == [
        f"{room[0]} Room.fail, sent by main, failed",
        f"{room[0]} Room.fail, sent by {room[0]} Room, failed",
    ]
    assert [record.exc_info[0] for record in caplog.records] == [KeyError, KeyError]
    assert {record.name for record in caplog.records} == {"gws"}


def test_a_late_answer_is_dropped(room, caplog):
    with gevent.Timeout(0, False):
        skynet.call(room[0], "hang")
    room[1].go.set()
    assert skynet.call(room[0], "say", "next") == ("next",)
    assert caplog.records == []


def test_a_late_failure_is_logged(room, caplog):
    def fail():
        room[1].go.wait()
        raise KeyError("late")

    with gevent.Timeout(0, False):
        skynet.call(room[0], "do", fail)
    room[1].go.set()
    turn()
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]


def test_a_caller_may_end_before_its_message_begins(room):
    def ask():
        gevent.get_hub().loop.run_callback(caller.throw)
        skynet.call(room[0], "say", "anyway")

    caller = gevent.spawn(ask)
    assert isinstance(caller.get(), GreenletExit)
    turn()
    assert room[1].said == [("anyway",)]


def test_another_thread_is_told(room):
    said = elsewhere(lambda: outcome(skynet.call, room[0], "say"))
    assert isinstance(said, ValueError)
    assert str(said) == f"{room[0]} Room belongs to another thread"


def test_another_thread_has_services_of_its_own(room):
    skynet.call(room[0], "say", 1)  # now there is a greenlet at rest, which is no good there

    def visit():
        address = skynet.newservice(Room)
        try:
            return skynet.call(address, "say", 2)
        finally:
            skynet.kill(address)

    assert elsewhere(visit) == (2,)
    assert skynet.call(room[0], "say", 3) == (3,)


# traces and rings


def test_a_failed_call_tells_the_chain_of_services(room):
    first, second, third = room[0], skynet.newservice(Room), skynet.newservice(Room)
    with pytest.raises(CallFailed) as caught:
        skynet.call(first, "do", skynet.call, second, "do", skynet.call, third, "fail", KeyError("bob"))
    assert str(caught.value) == f"{first} Room.do -> {second} Room.do -> {third} Room.fail: KeyError('bob')"
    causes, err = [], caught.value
    while err is not None:
        causes.append(type(err))
        err = err.__cause__
    assert causes == [CallFailed, CallFailed, CallFailed, KeyError]


def test_an_unknown_command_deep_down_tells_the_chain(room):
    with pytest.raises(CallFailed, match=rf"^{room[0]} Room\.do -> {room[0]} Room\.shout: no such command"):
        skynet.call(room[0], "do", skynet.call, room[0], "shout")


def test_a_dead_service_deep_down(room):
    with pytest.raises(CallFailed, match=rf"^{room[0]} Room\.do: ServiceExited") as caught:
        skynet.call(room[0], "do", skynet.call, ":0", "shout")
    assert isinstance(caught.value.__cause__, ServiceExited)


def test_a_cyclic_call_is_no_ring(room):
    other = skynet.newservice(Room)
    assert skynet.call(room[0], "do", skynet.call, other, "do", skynet.call, room[0], "add", 1, 2) == 3


def test_services_that_call_each_other_for_ever():
    class Parrot:
        def chat(self):
            self.calls = getattr(self, "calls", 0) + 1
            return skynet.call(others[skynet.self()], "chat")

    one, two = skynet.newservice(Parrot), skynet.newservice(Parrot)
    others = {one: two, two: one}
    with pytest.raises(CallFailed) as caught:
        skynet.call(one, "chat")
    ring = f"{one} Parrot.chat -> {two} Parrot.chat -> {one} Parrot.chat -> {two} Parrot.chat"
    assert f"everybody waits for everybody: {ring} -> ... 193 more -> " in str(caught.value)
    assert skynet.services()[0].messages == skynet.services()[1].messages == 100


def test_a_large_ring_of_calls_for_ever_is_reported():
    class Parrot:
        def chat(self):
            return skynet.call(others[skynet.self()], "chat")

    parrots = [skynet.newservice(Parrot) for _ in range(7)]
    others = dict(zip(parrots, parrots[1:] + parrots[:1]))
    with pytest.raises(CallFailed, match="everybody waits for everybody") as caught:
        skynet.call(parrots[0], "chat")
    assert all(parrot in str(caught.value) for parrot in parrots)


def test_a_long_way_is_no_ring():
    class Hop:
        def __init__(self, further):
            self.further = further

        def hop(self):
            return skynet.call(self.further, "hop") + 1 if self.further else 1

    last = None
    for _ in range(3 * skynet.DEPTH):
        last = skynet.newservice(Hop, last)
    assert skynet.call(last, "hop") == 3 * skynet.DEPTH


def test_a_chain_of_sent_messages_may_be_endless(room):
    def again(number):
        room[1].said.append(number)
        if number:
            skynet.send(room[0], "do", again, number - 1)

    skynet.call(room[0], "do", again, 500)
    while room[1].said[-1]:
        gevent.sleep(0)
    assert room[1].said == list(range(500, -1, -1))


def test_a_ring_of_calls_and_queues_is_reported(room):
    other, section = skynet.newservice(Room), skynet.queue()

    def enter(again):
        return section(skynet.call, other, "do", again)

    with pytest.raises(CallFailed) as caught:
        skynet.call(room[0], "do", enter, lambda: skynet.call(room[0], "do", section, print))
    ring = [f"{room[0]} Room.do", f"{room[0]} Room.do", f"{other} Room.do", f"{room[0]} Room.do"]
    assert f"everybody waits for everybody: {' -> '.join(ring)}" in str(caught.value)
    assert section(lambda: "free again") == "free again"


def test_the_main_greenlet_may_be_in_the_ring(room):
    section = skynet.queue()
    with section, pytest.raises(CallFailed, match=f"everybody.*: {room[0]} Room.do -> main -> {room[0]} Room.do"):
        skynet.call(room[0], "do", section, print)


def test_a_service_that_calls_itself_while_it_is_made():
    class Vain:
        def __init__(self):
            skynet.call(skynet.self(), "look")

        def look(self):
            raise AssertionError("there is nothing to see yet")

    with pytest.raises(ServiceError, match=r"everybody.*: (:\w+ Vain\.__init__) -> \1$"):
        skynet.newservice(Vain)


def test_a_service_that_is_called_by_what_it_makes():
    class Mother:
        def __init__(self):
            self.child = skynet.newservice(Child, skynet.self())

        def bless(self):
            raise AssertionError("she is not made yet")

    class Child:
        def __init__(self, mother):
            skynet.call(mother, "bless")

    with pytest.raises(ServiceError, match=r"everybody.*: (:\w+ Child\.__init__) -> :\w+ Mother\.__init__ -> \1$"):
        skynet.newservice(Mother)
    assert skynet.services() == []


def test_a_ring_of_queues_in_three_services_is_reported():
    """Each lets one message in at a time, and asks the next meanwhile."""

    class Serial:
        def __init__(self):
            self.section = skynet.queue()

        def ask(self, *way):
            return self.section(skynet.call, *way) if way[1:] else self.section(lambda: "the end")

    one, two, three = addresses = [skynet.newservice(Serial) for _ in range(3)]
    assert skynet.call(one, "ask", two, "ask", three, "ask") == "the end"
    with pytest.raises(CallFailed, match="everybody waits for everybody: ") as caught:
        skynet.call(one, "ask", two, "ask", three, "ask", one, "ask")
    ring = str(caught.value).partition("everybody waits for everybody: ")[2]
    assert all(address in ring for address in addresses)
    assert [skynet.call(each, "ask") for each in addresses] == ["the end"] * 3  # and none of them is held


def test_two_services_whose_queues_are_entered_crosswise_at_once():
    class Serial:
        def __init__(self):
            self.section = skynet.queue()

        def ask(self, other):
            with self.section:
                skynet.sleep(0)
                return skynet.call(other, "answer")

        def answer(self):
            with self.section:
                return "the answer"

    one, two = skynet.newservice(Serial), skynet.newservice(Serial)
    askers = [gevent.spawn(outcome, skynet.call, *pair) for pair in ((one, "ask", two), (two, "ask", one))]
    gevent.joinall(askers)
    said = sorted((asker.get() for asker in askers), key=str)
    assert isinstance(said[0], CallFailed)
    assert "everybody waits for everybody" in str(said[0])
    assert said[1] == "the answer"


def test_a_fork_is_not_in_the_section_of_who_began_it(room):
    def enter(log):
        with section:
            with section:
                skynet.fork(section, log.append, "fork")
                skynet.sleep(0)
            log.append("still inside")

    log, section = [], skynet.queue()
    skynet.call(room[0], "do", enter, log)
    turn()
    assert log == ["still inside", "fork"]


def test_a_section_is_free_once_the_service_that_holds_it_has_ended(room):
    other, section = skynet.newservice(Room), skynet.queue()
    skynet.send(room[0], "do", section, room[1].hang)
    turn()
    waiter = gevent.spawn(skynet.call, other, "do", section, lambda: "mine")
    turn()
    skynet.kill(room[0])
    assert waiter.get() == "mine"


# the end


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_who_waits_for_a_service_that_ends(room, end):
    callers = [gevent.spawn(outcome, skynet.call, room[0], "hang") for _ in range(3)]
    gevent.sleep(0)
    if end == "kill":
        assert skynet.kill(room[0]) is True
    else:
        with pytest.raises(ServiceExited, match="exited before it answered"):
            skynet.call(room[0], "do", skynet.exit)
    unheard = gevent.spawn(outcome, skynet.call, room[0], "say", "too late")
    gevent.joinall([*callers, unheard])
    assert {type(caller.get()) for caller in [*callers, unheard]} == {ServiceExited}
    assert str(callers[0].get()) == f"{room[0]} Room.hang: the service exited before it answered"
    assert room[1].said == []


def test_messages_that_have_not_begun_when_the_service_ends(room):
    skynet.send(room[0], "do", skynet.exit)
    skynet.send(room[0], "say", "unheard")
    with pytest.raises(ServiceExited):
        skynet.call(room[0], "say", "unheard")
    assert room[1].said == []


def test_greenlets_end_with_their_service(room):
    log = []

    def work(name):
        try:
            room[1].go.wait()
        except GreenletExit:
            log.append(name)
            raise

    skynet.send(room[0], "do", work, "message")
    skynet.send(room[0], "do", skynet.fork, work, "fork")
    skynet.send(room[0], "do", skynet.timeout, 0, lambda: work("timeout"))
    skynet.send(room[0], "do", skynet.timeout, 9, lambda: work("timeout to come"))
    while len(skynet.services()[0].greenlets) < 4 or skynet.services()[0].greenlets[-1][1] == "its time":
        gevent.sleep(0)
    skynet.send(room[0], "do", skynet.fork, work, "fork to come")
    skynet.kill(room[0])
    turn()
    assert sorted(log) == ["fork", "message", "timeout"]


def test_an_answer_that_is_under_way_when_the_service_is_killed(room):
    """A message that wakes in the same turn as its end comes may end before it."""
    caller = gevent.spawn(outcome, skynet.call, room[0], "hang")
    turn()
    room[1].go.set()
    gevent.get_hub().loop.run_callback(skynet.kill, room[0])
    assert caller.get() == "gone"


def test_a_timeout_that_is_due_when_the_service_is_killed(room):
    skynet.call(room[0], "do", skynet.timeout, 0, lambda: room[1].said.append("dead men tell no tales"))
    skynet.kill(room[0])
    turn()
    assert room[1].said == []


@pytest.mark.parametrize("kind", ["say", "add", "kind", "fork", "timeout", "queue", "nested"])
def test_exit_from_every_kind_of_command(kind):
    """Whoever calls is told, what comes after is never done, and the service is gone at once."""

    class Leaver:
        def say(self):
            skynet.exit()

        @staticmethod
        def add():
            skynet.exit()

        @classmethod
        def kind(cls):
            skynet.exit()

        def fork(self):
            skynet.fork(skynet.exit)
            Event().wait()

        def timeout(self):
            skynet.timeout(0, skynet.exit)
            Event().wait()

        def queue(self):
            with skynet.queue():
                skynet.exit()

        def nested(self):
            skynet.call(skynet.self(), "say")

    address = skynet.newservice(Leaver)
    with pytest.raises(ServiceExited, match=rf"Leaver\.{kind}: the service exited before it answered"):
        skynet.call(address, kind)
    assert skynet.services() == []
    assert waiting == {}


def test_a_service_that_is_killed_while_it_calls(room):
    """Its call is forgotten, and the late answer does no harm."""
    other = skynet.newservice(Room)
    caller = gevent.spawn(outcome, skynet.call, room[0], "do", skynet.call, other, "hang")
    turn()
    skynet.kill(room[0])
    assert isinstance(caller.get(), ServiceExited)
    assert waiting == {}
    Room.made[-1].go.set()
    turn()
    assert skynet.call(other, "say", 1) == (1,)


def test_kill_of_oneself_does_not_return(room):
    with pytest.raises(ServiceExited):
        skynet.call(room[0], "do", lambda: room[1].said.append(skynet.kill(skynet.self())))
    assert room[1].said == []


def test_kill_of_the_dead(room):
    assert skynet.kill(room[0]) is True
    assert skynet.kill(room[0]) is False
    assert skynet.kill(".nobody") is False


def test_a_dying_service_may_still_call(room):
    other = skynet.newservice(Room)

    def work():
        try:
            room[1].go.wait()
        finally:
            skynet.call(other, "say", "good bye")
            skynet.fork(room[1].said.append, "no more")

    skynet.send(room[0], "do", work)
    turn()
    skynet.kill(room[0])
    turn()
    assert skynet.call(other, "get", "said") == [("good bye",)]
    assert room[1].said == []


def test_one_greenlet_of_a_service_may_be_killed(room):
    worker = []

    def hang():
        worker.append(gevent.getcurrent())
        room[1].hang()

    caller = gevent.spawn(outcome, skynet.call, room[0], "do", hang)
    turn()
    gevent.kill(worker.pop())
    assert isinstance(caller.get().__cause__, GreenletExit)
    assert skynet.call(room[0], "add", 1, 1) == 2


# self, source, fork, timeout, sleep, wait, wakeup


@pytest.mark.parametrize("verb", [skynet.self, skynet.exit])
def test_outside_of_services(verb):
    with pytest.raises(ValueError, match="belongs to no service"):
        verb()


def test_self_and_source(room):
    other = skynet.newservice(Room)
    assert skynet.call(room[0], "do", skynet.self) == room[0]
    assert skynet.call(room[0], "do", skynet.source) is None
    assert skynet.call(room[0], "do", skynet.call, other, "do", skynet.source) == room[0]
    assert skynet.source() is None


@pytest.mark.parametrize("begin", [skynet.fork, lambda func: skynet.timeout(0, func)])
def test_a_fork_belongs_to_its_service(room, begin):
    log = []
    skynet.call(room[0], "do", begin, lambda: log.append(skynet.self()))
    while not log:
        gevent.sleep(0)
    assert log == [room[0]]


@pytest.mark.parametrize("begin", [skynet.fork, lambda func: skynet.timeout(0, func)])
def test_a_fork_of_nobody(begin):
    log = []
    begin(lambda: log.append(outcome(skynet.self)))
    while not log:
        gevent.sleep(0)
    assert isinstance(log[0], ValueError)


def test_a_fork_that_fails_is_logged(room, caplog):
    skynet.call(room[0], "do", skynet.fork, room[1].fail, KeyError("bob"))
    skynet.fork(room[1].fail, KeyError("ann"))
    turn()
    assert [record.getMessage() for record in caplog.records] == [
        f"{room[0]} Room.fork(Room.fail) failed",
        "main.fork(Room.fail) failed",
    ]


def test_sleep_lets_others_go_on():
    log = []
    gevent.spawn(log.append, "other")
    assert skynet.sleep(0) is False
    assert log == ["other"]


@pytest.mark.parametrize("rest", [lambda: skynet.sleep(60), skynet.wait])
def test_wakeup_of_a_fork(rest):
    log = []

    def work():
        log.append(rest())

    fork = skynet.fork(work)
    assert skynet.wakeup(fork) is False
    turn()
    assert repr(fork).endswith(": under way>")
    assert skynet.wakeup(fork) is True
    assert skynet.wakeup(fork) is False
    turn()
    assert log in ([True], [None])
    assert repr(fork).endswith(": over>")


def test_wakeup_by_a_token(room):
    other = skynet.newservice(Room)
    waiter = gevent.spawn(skynet.call, room[0], "do", skynet.wait, "door")
    turn()
    assert skynet.wakeup("door") is False  # each service has tokens of its own
    assert skynet.call(other, "do", skynet.wakeup, "door") is False
    assert not waiter.dead
    assert skynet.call(room[0], "do", skynet.wakeup, "door") is True
    waiter.get()


def test_two_cannot_wait_for_one_token():
    waiter = gevent.spawn(skynet.wait, "door")
    gevent.sleep(0)
    with pytest.raises(ValueError, match="somebody waits for 'door' already"):
        skynet.wait("door")
    waiter.kill()
    assert skynet.wakeup("door") is False


def test_a_token_is_free_once_it_was_woken():
    first = gevent.spawn(skynet.wait, "door")
    gevent.sleep(0)
    skynet.wakeup("door")
    second = gevent.spawn(skynet.wait, "door")
    turn()
    assert (first.dead, second.dead) == (True, False)
    assert skynet.wakeup("door") is True
    second.get()


# name, query, error


def test_a_name_stands_for_the_address(room):
    skynet.name(".hall", room[0])
    skynet.name(".lobby", ".hall")
    assert skynet.query(".lobby") == room[0]
    assert skynet.call(".lobby", "say", 1) == (1,)
    assert len(skynet.services()) == 1
    assert skynet.services()[0].names == (".hall", ".lobby")
    skynet.kill(".hall")
    assert isinstance(outcome(skynet.call, ".lobby", "say"), ServiceExited)


def test_a_name_is_free_once_its_service_has_ended(room):
    skynet.name(".hall", room[0])
    skynet.kill(room[0])
    heir = skynet.newservice(Room)
    skynet.name(".hall", heir)
    assert skynet.query(".hall") == heir


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hall", "begins with a dot, 'hall' does not"),
        (":1", "begins with a dot"),
        (7, "dot"),
        (".taken", r":\w+ Room$"),
    ],
)
def test_names_that_cannot_be_given(room, name, text):
    skynet.name(".taken", room[0])
    with pytest.raises(ValueError, match=text):
        skynet.name(name, room[0])


def test_query_of_what_can_be_no_name():
    with pytest.raises(ValueError, match="begins with a dot"):
        skynet.query("hall")


def test_the_dead_get_no_name():
    with pytest.raises(ServiceExited):
        skynet.name(".hall", ":0")


def test_query_waits_until_the_name_is_there(room):
    early = [gevent.spawn(skynet.query, ".hall") for _ in range(2)]
    other = gevent.spawn(skynet.query, ".other")
    turn()
    skynet.name(".hall", room[0])
    gevent.joinall(early)
    assert [asker.get() for asker in early] == [room[0]] * 2
    assert not other.dead
    other.kill()


def test_a_name_that_was_given_and_lost_before_the_asker_woke(room):
    asker = gevent.spawn(skynet.query, ".hall")
    turn()
    skynet.name(".hall", room[0])
    skynet.kill(room[0])
    turn()
    assert not asker.dead
    heir = skynet.newservice(Room)
    skynet.name(".hall", heir)
    assert asker.get() == heir


def test_who_waits_for_a_name_may_be_killed(room):
    caller = gevent.spawn(outcome, skynet.call, room[0], "do", skynet.query, ".nobody")
    turn()
    skynet.kill(room[0])
    assert isinstance(caller.get(), ServiceExited)


def test_a_name_that_nobody_gives_is_reported_once_per_doubling(room, caplog, monkeypatch):
    monkeypatch.setattr(skynet, "PATIENCE", 0.001)
    askers = [gevent.spawn(skynet.query, ".b"), gevent.spawn(skynet.call, room[0], "do", skynet.query, ".b")]
    until(lambda: len(caplog.records) > 4)
    skynet.name(".b", room[0])
    assert [asker.get() for asker in askers] == [room[0]] * 2
    said = {record.getMessage() for record in caplog.records}
    assert said == {f"{who} waits for somebody of the name .b" for who in ("main", f"{room[0]} Room.do")}


def test_error_logs_who_says_it(room, caplog):
    skynet.error("listen on", 8888)
    skynet.call(room[0], "do", skynet.error, "full")
    assert [record.getMessage() for record in caplog.records] == ["main: listen on 8888", f"{room[0]} Room: full"]
    assert {(record.name, record.levelno) for record in caplog.records} == {("gws", logging.ERROR)}


class Chaos:
    """A service that does, of all that services may do, what the dice say."""

    def __init__(self, dice, deeds):
        self.dice, self.deeds, self.section = dice, deeds, skynet.queue()

    def act(self, depth):
        return getattr(self, f"_{self.dice.choice(self.deeds)}")(depth)

    def _any(self):
        return self.dice.choice(list(skynet._services) or [":gone"])

    def _answer(self, depth):
        return "answer"

    def _ask(self, depth):
        return skynet.call(self._any(), "act", depth - 1) if depth else "answer"

    def _ask_inside(self, depth):
        return self.section(self._ask, depth)

    def _ask_in_haste(self, depth):
        with gevent.Timeout(0.001, False):
            return self._ask(depth)

    def _send(self, depth):
        if depth:
            skynet.send(self._any(), "act", depth - 1)

    def _fork(self, depth):
        skynet.fork(self._sleep, depth)

    def _later(self, depth):
        skynet.timeout(self.dice.randrange(3) / 1000, lambda: self.section(self._sleep, depth))

    def _sleep(self, depth):
        skynet.sleep(self.dice.randrange(3) / 1000)

    def _raise(self, depth):
        raise KeyError(depth)

    def _kill(self, depth):
        skynet.kill(self._any())

    def _exit(self, depth):
        skynet.exit()


@pytest.mark.parametrize("seed", range(3))
def test_chaos(seed, caplog):
    """Invariant: whatever services do to one another, each call ends, and nothing is left behind."""

    def ask():
        for _ in range(60):
            if len(skynet._services) < 15:
                outcome(skynet.newservice, Chaos, dice, deeds)
            results.append(
                outcome(skynet.call, dice.choice(list(skynet._services) or [":gone"]), "act", dice.randrange(6))
            )

    caplog.set_level(logging.CRITICAL, "gws")
    dice, results = random.Random(seed), []
    deeds = ["ask", "ask_inside"] * 6 + ["answer", "ask_in_haste", "send", "fork", "later", "sleep", "raise"] * 3
    deeds += ["kill", "exit"]
    gevent.joinall([gevent.spawn(ask) for _ in range(20)], timeout=10, raise_error=True)
    assert len(results) == 1200
    assert {type(result) for result in results} <= {str, type(None), CallFailed, ServiceExited}
    for address in list(skynet._services):
        skynet.kill(address)
    turn()
    assert (skynet._asleep, waiting) == ({}, {})


def test_everything_public_is_there():
    assert all(hasattr(skynet, name) for name in skynet.__all__)
