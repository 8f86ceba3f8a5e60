# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The stream, compiled: straight on the descriptor, no Python between the kernel and a frame.

The twin of `stream.py`, `intake.py` and `outbox.py`: same contract, same tests; it knows nothing that they do not.
What is wrong with a header is told by `frame.decode_header`, so that both twins tell it in the same words.

How bytes come in.   One recv per turn of the loop, into a scratch buffer that all streams of a hub share.  The first
frame is unmasked on its way from there into the object that the handler receives: one copy.  What is left of the
batch moves into a buffer of the stream's own (`_left`), since other greenlets run before the next read and reuse the
scratch.  A long payload that came in part is received into its own object (`_body`), which grows with what has come,
not with what the header claims.

Who is woken, and how.   The streams of a hub wait in an epoll set of their own, and the hub's loop watches the set: one
watcher for all connections, registered once for all of a connection's reads.  A greenlet that parks while others are
known to be ready switches straight to the next of them: one switch for each, not two by way of the hub.  Each is timed
from its wake to its park; who is not trusted (see `turn`) is not woken, but joins a lane.

How bytes go out.   Straight from the message's object to the kernel if nothing waits before it; else into a queue of
chunks (`_chunks`): small writes are copied into one chunk's buffer, large ones keep a reference.

Bounds.   Every copy below names the two lengths that bound it, in a comment where they are not on the same line.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.limits cimport LLONG_MAX
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, clockid_t, timespec

import contextlib
import os

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.exceptions import BlockingSwitchOutError
from gevent.hub import Waiter

from gws.errors import HandshakeError, MessageTooBig, ProtocolError
from gws.frame import decode_header
from gws import turn
from gws.outbox import AGAIN, send_fin
from gws.utf8 import not_utf8

__all__ = ["Stream"]


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **object, Py_ssize_t size) except -1
    PyObject *PyBytes_FromStringAndSize_ "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size)
    char *PyBytes_AS_STRING_ "PyBytes_AS_STRING"(PyObject *object)
    PyObject *PyUnicode_New_ "PyUnicode_New"(Py_ssize_t size, int maximum)
    int PyUnicode_Resize(PyObject **text, Py_ssize_t size) except -1
    void *PyUnicode_DATA_ "PyUnicode_DATA"(PyObject *text)
    object PyUnicode_DecodeUTF8(const char *data, Py_ssize_t size, const char *errors)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t size, int flags)
    int PyBUF_WRITE

cdef extern from "greenlet/greenlet.h":
    ctypedef struct PyGreenlet:
        pass
    void PyGreenlet_Import()
    PyGreenlet *PyGreenlet_GetCurrent() except NULL
    object PyGreenlet_Switch(PyGreenlet *greenlet, PyObject *args, PyObject *kwargs)

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    int MSG_DONTWAIT, MSG_NOSIGNAL
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)

cdef extern from "<unistd.h>" nogil:
    int close_descriptor "close"(int fd)

cdef extern from "<sys/ioctl.h>" nogil:
    int FIONREAD
    int ioctl(int fd, unsigned long request, ...)

cdef extern from *:
    """
    /* Apply the mask, 8 bytes at a time (the compiler makes vectors of it at -O3), and tell whether any byte that
     * came out is not ASCII.  memcpy is how C spells an unaligned load.  `key` is the mask as it lies in memory,
     * turned so that it fits the first byte; 0 just copies. */
    #include <stdint.h>
    #include <string.h>
    static inline uint32_t gws_turn(const uint8_t *key, size_t offset) {
        uint8_t turned[4];
        uint32_t word;
        for (int i = 0; i < 4; i++) turned[i] = key[(offset + i) & 3];
        memcpy(&word, turned, 4);
        return word;
    }
    #define GWS_HIGH 0x8080808080808080u
    static inline int gws_mask_copy(uint8_t *restrict to, const uint8_t *restrict from, size_t size, uint32_t key) {
        const uint64_t wide = (uint64_t)key << 32 | key;
        uint64_t seen = 0;
        size_t i = 0;
        for (; i + 8 <= size; i += 8) {
            uint64_t word;
            memcpy(&word, from + i, 8);
            word ^= wide;
            seen |= word;
            memcpy(to + i, &word, 8);
        }
        uint8_t tail[4];
        memcpy(tail, &key, 4);
        for (; i < size; i++) seen |= to[i] = from[i] ^ tail[i & 3];
        return (seen & GWS_HIGH) != 0;
    }
    static inline int gws_mask_here(uint8_t *data, size_t size, uint32_t key) {
        const uint64_t wide = (uint64_t)key << 32 | key;
        uint64_t seen = 0;
        size_t i = 0;
        for (; i + 8 <= size; i += 8) {
            uint64_t word;
            memcpy(&word, data + i, 8);
            word ^= wide;
            seen |= word;
            memcpy(data + i, &word, 8);
        }
        uint8_t tail[4];
        memcpy(tail, &key, 4);
        for (; i < size; i++) seen |= data[i] ^= tail[i & 3];
        return (seen & GWS_HIGH) != 0;
    }

    /* UTF-8 (RFC 3629 section 4), wherever it is cut: how many bytes a character still needs, and between which
     * bounds the next one must lie.  Returns -1 for what can never become UTF-8. */
    typedef struct { uint8_t need, low, high; } gws_utf8;
    static int gws_utf8_see(gws_utf8 *state, const uint8_t *data, size_t size) {
        size_t i = 0;
        while (i < size) {
            uint64_t word;
            uint8_t byte;
            if (!state->need) {
                while (i + 8 <= size && (memcpy(&word, data + i, 8), !(word & GWS_HIGH))) i += 8;
                if (i == size) break;
            }
            byte = data[i++];
            if (state->need) {
                if (byte < state->low || byte > state->high) return -1;
                state->need--;
                state->low = 0x80, state->high = 0xBF;
            } else if (byte >= 0x80) {
                if (byte < 0xC2 || byte > 0xF4) return -1;
                state->need = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
                state->low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
                state->high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
            }
        }
        return 0;
    }
    """
    ctypedef struct gws_utf8:
        uint8_t need, low, high
    uint32_t gws_turn(const uint8_t *key, size_t offset) noexcept nogil
    bint gws_mask_copy(uint8_t *to, const uint8_t *from_, size_t size, uint32_t key) noexcept nogil
    bint gws_mask_here(uint8_t *data, size_t size, uint32_t key) noexcept nogil
    int gws_utf8_see(gws_utf8 *state, const uint8_t *data, size_t size) noexcept nogil

PyGreenlet_Import()

# glibc gives a large block back to the kernel when it is freed, and takes it anew for the next message: hundreds of page
# faults for each MiB.  It learns to keep such blocks from the first one of their size that it sees freed: this one.
PyMem_RawFree(PyMem_RawMalloc(LARGE))

cdef enum:
    READ = 1                      # libev's EV_READ and EV_WRITE; libuv's loop takes the same
    WRITE = 2
    SCRATCH = 256 * 1024          # bytes that one connection may bring in per turn of the loop
    PREFIX = 16                   # room before them for the start of a header (at most 13 bytes) from the turn before
    HIGH_WATER = 64 * 1024        # bytes that may wait for the kernel before write() blocks
    WARN_FROM = 1024 * 1024       # pending bytes that are worth a first warning
    SMALL = 16 * 1024             # writes up to this are copied together; larger ones are sent from where they are
    LARGE = 8 * 1024 * 1024
    MAX_HEADER = 14
    READY = 64                    # streams that are woken before the loop runs on
    CHUNKS = 64                   # chunks in one sendmsg; far below IOV_MAX
    NOWHERE = -1
    KNOWN = 0                     # the lanes of `turn`
    NEW = 1
    HEAVY = 2

cdef struct Chunk:
    PyObject *owner               # keeps `data` alive; NULL: `data` is a buffer of ours, with room for more
    char *data
    Py_ssize_t begin, end, room   # what is to be sent is data[begin:end]; `room` is the buffer's size


cdef class Turn:
    """What all streams of one hub share: the buffers, who can be read, and who has bytes to send when this turn ends.

    However many messages a broadcast posts in a turn, each connection's queue leaves in one send.
    """
    cdef object hub, loop, watcher, lanes
    cdef list late
    cdef char *scratch            # PREFIX + SCRATCH bytes
    cdef char *out                # MAX_HEADER + SMALL bytes: a small frame is put together here, and sent at once
    cdef bytes entropy
    cdef Py_ssize_t drawn         # bytes of `entropy` that are used up
    # Who waits.  The set holds no references: a stream leaves it before it closes, and before it is freed.
    cdef int epoll, waiting
    cdef int age                  # how often this process is a child of the one that the hub began in
    cdef epoll_event ready[READY]
    cdef int next, end            # ready[next:end] is still to be woken; empty unless `wake` is on the hub's stack
    # Of all streams, also those that are closed.
    cdef readonly long long received, sent, messages_received, messages_sent
    # Whose turn it is, a Stream (not referred to: it clears this before it is freed), and by which clock since when
    cdef void *running
    cdef bint on_trust
    cdef double began

    def __cinit__(self, hub):
        self.hub = hub
        self.loop = hub.loop
        self.lanes = turn.Lanes(hub.loop)
        self.running = NULL
        self.late = []
        self.entropy, self.drawn = b"", 0
        self.epoll = -1
        self.scratch = <char *>PyMem_Malloc(PREFIX + SCRATCH)
        self.out = <char *>PyMem_Malloc(MAX_HEADER + SMALL)
        if self.scratch == NULL or self.out == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.scratch)
        PyMem_Free(self.out)
        if self.epoll >= 0:
            close_descriptor(self.epoll)

    cdef int begin(self) except -1:
        """Make the set, for the first stream that waits."""
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise_errno()
        self.watcher = self.loop.io(self.epoll, READ)
        self.watcher.start(self.wake, self.age, self.watcher, self.epoll)
        return 0

    cdef int rest(self) except -1:
        """Drop the set when nobody is in it: it would keep the loop from ending, and a descriptor of a hub that has."""
        if self.waiting == 0 and self.epoll >= 0:
            self.watcher.stop()
            self.watcher.close()
            close_descriptor(self.epoll)
            self.epoll = -1
        return 0

    cdef int begin_anew(self) except -1:
        """In a child: the set and the masks drawn in advance are the parent's, and not to be touched.

        Nor is the watcher, while libuv's own set is still the parent's too; `wake` closes it if it ever fires.
        """
        if self.epoll >= 0:
            self.watcher.ref = False
            self.watcher, self.epoll = None, -1
        self.waiting = self.next = self.end = 0
        self.entropy, self.drawn = b"", 0
        self.age += 1
        return 0

    cdef int watch(self, Stream stream) except -1:
        """Let `stream` be woken whenever it can be read, until `unwatch`."""
        cdef epoll_event event
        if self.epoll < 0:
            self.begin()
        event.events = EPOLLIN
        event.data.ptr = <void *>stream
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, stream._fd, &event) < 0:
            raise_errno()
        self.waiting += 1
        return 0

    cdef void unwatch(self, Stream stream) noexcept:
        cdef int i
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, stream._fd, NULL)
        for i in range(self.next, self.end):
            if self.ready[i].data.ptr == <void *>stream:
                self.ready[i].data.ptr = NULL
        self.waiting -= 1

    def wake(self, int age, watcher, int epoll):
        """The loop's callback: some streams can be read.   Switch to who waits for them."""
        cdef void *stream
        if age != self.age:                    # the parent's set
            watcher.stop()
            watcher.close()
            close_descriptor(epoll)
            return
        self.next, self.end = 0, epoll_wait(self.epoll, self.ready, READY, 0)
        try:
            while self.next < self.end:
                stream = self.ready[self.next].data.ptr
                self.next += 1
                if stream != NULL:
                    (<Stream>stream)._wake()
        finally:
            self.next = self.end = 0           # after an error: who was not woken is still ready in the next turn

    cdef PyObject *who_is_next(self) noexcept:
        """Return the greenlet to switch to from one that parks: the next that can go on, else the hub."""
        cdef void *stream
        cdef double now = self.judge()
        while self.next < self.end:
            stream = self.ready[self.next].data.ptr
            if stream != NULL:
                if (<Stream>stream)._reader is None or (<Stream>stream)._proof:
                    break                      # nobody waits for it, or it has to: `wake` sees to that
                if not (<Stream>stream)._resting:
                    self.next += 1
                    self.running, self.on_trust, self.began = stream, True, now
                    return <PyObject *>(<Stream>stream)._reader
            self.next += 1
        return <PyObject *>self.hub

    cdef int run(self, Stream stream) except -1:
        """Let the reader go on, and time what it does until it parks, or the hub is back."""
        self.running, self.on_trust = <void *>stream, stream._proof == 0
        self.began = clock(CLOCK_MONOTONIC if self.on_trust else CLOCK_THREAD_CPUTIME_ID)
        PyGreenlet_Switch(<PyGreenlet *>stream._reader, NULL, NULL)
        self.judge()
        if away is not None:
            away()
        return 0

    cdef double judge(self) noexcept:
        """Take account of the batch of who was running, if any (see `turn.Standing`).   Return the time."""
        cdef Stream stream
        cdef double took, now = clock(CLOCK_MONOTONIC)
        if self.running == NULL:
            return now
        stream = <Stream>self.running
        self.running = NULL
        took = (now if self.on_trust else clock(CLOCK_THREAD_CPUTIME_ID)) - self.began
        if self.on_trust:
            if took > long_ and stream._proof == 0:
                stream._proof = stream._due
        elif took > long_:
            stream._lane = HEAVY
            stream._due = stream._proof = min(2 * stream._due, proof_most)
        elif stream._proof:
            stream._proof -= 1
            if stream._proof == 0:
                stream._lane = KNOWN
        return now

    cdef int add(self, Stream stream) except -1:
        if not self.late:
            self.loop.run_callback(self.end_turn)
        self.late.append(stream)
        return 0

    def end_turn(self):
        cdef Stream stream
        late, self.late = self.late, []
        for stream in late:
            stream._late = False
        for stream in late:
            stream._flush()

    cdef int draw(self, uint8_t *key) except -1:
        """Draw a mask: "derived from a strong source of entropy" (RFC 6455 section 5.3), in bulk."""
        if self.drawn + 4 > PyBytes_GET_SIZE(self.entropy):
            self.entropy = os.urandom(4096)
            self.drawn = 0
        memcpy(key, PyBytes_AS_STRING(self.entropy) + self.drawn, 4)   # drawn + 4 <= 4096
        self.drawn += 4
        return 0


cdef Turn turn_of(hub):
    turns = vars(hub)
    if "gws_compiled_turn" not in turns:
        turns["gws_compiled_turn"] = Turn(hub)           # lives and dies with its hub
    return turns["gws_compiled_turn"]


def _after_fork():
    hub = get_hub_if_exists()
    turn = None if hub is None else vars(hub).get("gws_compiled_turn")
    if turn is not None:
        (<Turn>turn).begin_anew()


os.register_at_fork(after_in_child=_after_fork)


@cython.no_gc_clear               # __dealloc__ has to leave the turn's set, so it needs the turn
cdef class Stream:
    """The bytes of one connection.   One greenlet may read at a time; any number may write.   (See `stream.Stream`.)"""

    cdef object __weakref__
    cdef object _sock, _hub, _write_watcher, _error
    cdef object _wrong                         # a ProtocolError, told by every further read; or a frame that was put back
    cdef object _reader                        # the greenlet that is parked in a read
    cdef list _writers                         # [(bytes sent at which it goes on, its waiter)], in order; None: nobody
    cdef Turn _turn
    cdef int _fd, _age                         # _age: of the turn, when it was told to watch us
    cdef bint _masked, _tls, _closed, _late, _corked, _watching, _blocked, _resting, _queued
    cdef double _until                         # when its batch has taken long; 0: it has not begun
    cdef double _mark                          # the processor time at which that was first so; 0: it was not
    cdef int _lane, _due, _proof               # see turn.Standing; _proof == 0: it is trusted
    cdef unsigned long _thread
    # received, not parsed yet: _left[_left_begin:_left_end]
    cdef char *_left
    cdef Py_ssize_t _left_begin, _left_end
    # the frame at hand, once its header is whole
    cdef bint _in_frame, _as_text              # _as_text: a whole text message, wanted as str
    cdef bint _body_is_str                     # so far it is ASCII: received straight into a str
    cdef gws_utf8 _utf8                        # where its UTF-8 stands
    cdef uint8_t _first
    cdef uint8_t _key[4]
    cdef Py_ssize_t _length
    cdef PyObject *_body                       # its payload so far, if it did not come in one piece: a bytes object,
    cdef Py_ssize_t _body_end, _body_room      # or an ASCII str, of which nobody else knows yet
    # to be sent: _chunks[_chunks_begin:_chunks_end]
    cdef Chunk *_chunks
    cdef int _chunks_begin, _chunks_end, _chunks_room
    cdef long long _warned
    cdef readonly long long pending, received, sent, messages_received, messages_sent, unanswered
    cdef public int rsv
    cdef public long long bound                # see write_frame
    cdef public object warn

    def __init__(self, sock, *, bint masked):
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._masked = masked
        self._tls = hasattr(sock, "pending")
        self._hub = get_hub()
        self._thread = PyThread_get_thread_ident()
        self._turn = turn_of(self._hub)
        self.bound = LLONG_MAX

    def __dealloc__(self):
        if self._turn is not None and self._turn.running == <void *>self:
            self._turn.running = NULL
        self._unwatch()
        PyMem_Free(self._left)
        Py_XDECREF(self._body)
        self._drop_chunks()
        PyMem_Free(self._chunks)

    def __repr__(self):
        state = "closed" if self._closed else f"fd={self._fd} pending={self.pending}"
        return f"<Stream {state}>"

    # --------------------------------------------------------------------------------------------------- reading

    @property
    def reading(self):
        """Whether a greenlet waits in a read."""
        return self._reader is not None

    @property
    def trusted(self):
        """Whether what came so far never took long (see `turn`)."""
        return self._proof == 0

    @property
    def unread(self):
        """Whether the kernel holds bytes that nobody has read yet."""
        cdef int count = 0
        return not self._closed and ioctl(self._fd, FIONREAD, &count) == 0 and count > 0

    def preload(self, bytes data):
        """Take `data` as what came first: the frames that a buffer before us got together with the request, say."""
        if data:
            self._add_left(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            self.received += PyBytes_GET_SIZE(data)
            self._turn.received += PyBytes_GET_SIZE(data)

    @property
    def buffered(self):
        """Whether bytes were received that nobody has read yet."""
        return self._left_begin < self._left_end or bool(self._tls and not self._closed and self._sock.pending())

    def fileno(self):
        """Return the descriptor, for who wants to watch it; -1 after the end."""
        return -1 if self._closed else self._fd

    def read_head(self, Py_ssize_t limit):
        """Read an HTTP head through its blank line, of at most `limit` bytes (else HandshakeError 431).   Blocks."""
        cdef Py_ssize_t seen = 0, have, end, count
        cdef char *scratch = self._turn.scratch + PREFIX
        while True:
            have = self._left_end - self._left_begin
            end = find_blank_line(self._left + self._left_begin, seen - 3 if seen > 3 else 0, have) if have else -1
            seen = have
            if (end if end >= 0 else have) > limit:
                raise HandshakeError(431, f"the head is longer than {limit} bytes")
            if end >= 0:
                head = PyBytes_FromStringAndSize(self._left + self._left_begin, end)    # end <= have
                self._use_left(end)
                return head
            count = self._receive(scratch, SCRATCH)
            self._add_left(scratch, count)

    def read(self, Py_ssize_t size):
        """Read exactly `size` bytes as they are (a body, say, whose length its head has told).   Blocks."""
        cdef char *scratch = self._turn.scratch + PREFIX
        while self._left_end - self._left_begin < size:
            self._add_left(scratch, self._receive(scratch, SCRATCH))
        if size <= 0:
            return b""
        data = PyBytes_FromStringAndSize(self._left + self._left_begin, size)      # there are `size` bytes left
        self._use_left(size)
        return data

    def read_frame(self, Py_ssize_t limit, partial=None, bint text=False):
        """Read the next frame: its first byte (FIN, RSV, opcode) and its payload.   Blocks.

        `limit` bounds a data frame's payload in bytes (else MessageTooBig, before any of it is taken).  A frame that
        does not come in one piece is shown to `partial(first, piece)` piece by piece before the wait for more, so
        that what is wrong with it can be told early; what that raises ends the read.  With `text`, the payload of an
        unfragmented text frame comes as str instead, its UTF-8 judged as it comes (else InvalidPayload).
        """
        cdef Py_ssize_t used = 0
        cdef object payload = None
        if self._wrong is not None:
            return self._again()
        if self._due == 0:                      # nothing is known of it yet
            self._due = self._proof = proof
            self._lane = NEW
        try:
            if self._left_begin < self._left_end and (self._reader is not None or self._is_spent()):
                self._park(self._lane)
            while True:
                if self._left_begin < self._left_end:
                    try:
                        payload = self._step(<uint8_t *>self._left + self._left_begin,
                                             self._left_end - self._left_begin, &used, limit, partial, text)
                    finally:                    # also if `partial` raised: what it saw is taken
                        self._use_left(used)
                    if payload is not None:
                        break
                payload = self._step_from_socket(limit, partial, text)
                if payload is not None:
                    break
        except ProtocolError as error:
            self._wrong = error                 # the bytes behind it have no meaning any more
            raise
        # Corking: while another whole frame of this batch waits, its reply can share a send with this one's.
        self._corked = self._left_begin < self._left_end and self._is_whole(
            <uint8_t *>self._left + self._left_begin, self._left_end - self._left_begin)
        if self._first & 0x88 == 0x80:          # FIN, and no control frame
            self.messages_received += 1
            self.unanswered += 1
            self._turn.messages_received += 1
        if self._length > LARGE_MESSAGE and (self._proof or self._length > 8 * LARGE_MESSAGE):
            self.pause(self._first, payload)
            return self._first, payload
        return self._first, payload

    def pause(self, int first, payload, shed=None):
        """Rest before something that takes long, as the others may have waited for longer.   Blocks.

        What ends the wait leaves this frame to the next read: it is put back.   If there is a wait, `shed()` is called
        first: it drops what can be made anew.
        """
        lanes = self._turn.lanes
        if self._lane == HEAVY and self._turn.running == <void *>self and clock(CLOCK_THREAD_CPUTIME_ID) < <double>lanes.until:
            return
        if lanes.may_go():
            return
        if shed is not None:
            shed()
        self._wrong = first, payload
        self._park(HEAVY)
        self._wrong = None

    cdef object _again(self):
        """Return the frame that was put back, or raise what was wrong."""
        if isinstance(self._wrong, ProtocolError):
            raise self._wrong
        if self._reader is not None:
            self._park(NOWHERE)                 # which tells the second reader off
        frame, self._wrong = self._wrong, None
        self._first = frame[0]
        return frame

    cdef object _step_from_socket(self, Py_ssize_t limit, partial, bint text):
        """Receive once, and take what came into the frame at hand; its payload, if that made it whole."""
        cdef Py_ssize_t count, used = 0, prefix
        cdef char *data = self._turn.scratch + PREFIX
        if self._body != NULL and not self._tls and self._length - self._body_end > SMALL:
            return self._receive_body(partial)
        count = self._receive(data, SCRATCH)
        prefix = self._left_end - self._left_begin
        if prefix:                              # a header's start, that _step left: less than MAX_HEADER <= PREFIX
            data -= prefix
            memcpy(data, self._left + self._left_begin, prefix)
            self._use_left(prefix)
            count += prefix
        payload = self._step(<uint8_t *>data, count, &used, limit, partial, text)
        if used < count:
            self._add_left(data + used, count - used)
        return payload

    cdef object _step(self, const uint8_t *data, Py_ssize_t size, Py_ssize_t *used, Py_ssize_t limit, partial, bint text):
        """Take from data[:size] what belongs to the frame at hand; tell how much; return the payload if it is whole."""
        cdef Py_ssize_t begin = 0, count, rest, slack
        cdef bint high
        used[0] = 0
        if not self._in_frame:
            begin = self._parse_header(data, size)
            if begin == 0:
                return None
            slack = limit // 8 + 1024 if self._first & 0x40 else 0
            if self._length - limit > slack and self._first & 0x08 == 0:     # limit + slack might not fit
                raise MessageTooBig(f"a message is longer than the {limit} bytes that were left for it")
            self._in_frame = True
            self._as_text = text and self._first == 0x81
        rest = self._length - self._body_end if self._body != NULL else self._length
        count = rest if rest < size - begin else size - begin     # data[begin:begin + count] is within data[:size]
        used[0] = begin + count
        if count == rest and self._body == NULL:
            self._in_frame = False
            return self._whole_text(data + begin, count) if self._as_text else self._whole_bytes(data + begin, count)
        self._make_room(count)
        high = self._unmask_copy(self._body_data() + self._body_end, data + begin, count, self._body_end)
        return self._took(count, high, partial)

    cdef object _whole_bytes(self, const uint8_t *data, Py_ssize_t size):
        """Return a payload that came in one piece."""
        payload = PyBytes_FromStringAndSize(NULL, size)
        self._unmask_copy(<uint8_t *>PyBytes_AS_STRING(payload), data, size, 0)
        return payload

    cdef object _whole_text(self, const uint8_t *data, Py_ssize_t size):
        """Return a text that came in one piece: unmasked straight into a str, which is right if all of it is ASCII."""
        cdef PyObject *text
        if size == 0:
            return ""
        text = PyUnicode_New_(size, 127)               # a str of `size` bytes, yet to be written
        if text == NULL:
            raise MemoryError
        if not self._unmask_copy(<uint8_t *>PyUnicode_DATA_(text), data, size, 0):
            return steal(text)
        try:
            return decode_utf8(<char *>PyUnicode_DATA_(text), size)
        finally:
            Py_XDECREF(text)

    cdef object _receive_body(self, partial):
        """Receive straight into the payload's object, and unmask it there while it is warm."""
        cdef Py_ssize_t count, rest
        self._make_room(1)
        rest = self._body_room - self._body_end        # > 0; the object has _body_room bytes, at most _length
        if rest > SCRATCH:
            rest = SCRATCH
        count = self._receive(<char *>self._body_data() + self._body_end, rest)
        return self._took(count, gws_mask_here(self._body_data() + self._body_end, count,
                                               gws_turn(self._key, self._body_end) if self._masked else 0), partial)

    cdef object _took(self, Py_ssize_t count, bint high, partial):
        """Count bytes that are in the payload now (`high`: not all ASCII); return it if whole, else show the piece."""
        cdef uint8_t *piece
        if high and self._body_is_str:
            self._make_bytes(count)
        piece = self._body_data() + self._body_end     # piece[:count] is within the object's _body_room
        self._body_end += count
        if self._as_text and (high or self._utf8.need) and gws_utf8_see(&self._utf8, piece, count) < 0:
            raise not_utf8()
        if self._body_end == self._length:             # == _body_room: the object never has more than _length bytes
            return self._whole_body()
        if partial is not None and count and not self._as_text:
            partial(self._first, PyBytes_FromStringAndSize(<char *>piece, count))
        return None

    cdef object _whole_body(self):
        """Return the payload, which is whole."""
        self._in_frame = False
        payload = steal(self._body)
        self._body = NULL
        if self._as_text and not self._body_is_str:
            return decode_utf8(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        return payload

    cdef uint8_t *_body_data(self) noexcept:
        if self._body_is_str:
            return <uint8_t *>PyUnicode_DATA_(self._body)
        return <uint8_t *>PyBytes_AS_STRING_(self._body)

    cdef int _make_bytes(self, Py_ssize_t count) except -1:
        """What was ASCII so far is so no longer: go on in a bytes object.   `count` bytes are there, uncounted."""
        cdef PyObject *data = PyBytes_FromStringAndSize_(NULL, self._body_room)
        if data == NULL:
            raise MemoryError
        memcpy(PyBytes_AS_STRING_(data), self._body_data(), self._body_end + count)    # <= _body_room
        Py_DECREF(<object>self._body)
        self._body, self._body_is_str = data, False
        return 0

    cdef int _make_room(self, Py_ssize_t count) except -1:
        """Let the payload's object have `count` more bytes than it holds.

        Memory follows need, not the peer's word: what has come, times 16, so that little is copied when it grows.
        """
        cdef Py_ssize_t have = self._body_end if self._body != NULL else 0
        cdef Py_ssize_t room = min(max(16 * (have + count), <Py_ssize_t>SMALL), self._length)
        if self._body == NULL:
            self._body_is_str = self._as_text
            self._body_end = 0
            self._utf8.need = 0
            self._body = PyUnicode_New_(room, 127) if self._as_text else PyBytes_FromStringAndSize_(NULL, room)
            if self._body == NULL:
                raise MemoryError
        elif have + count <= self._body_room:
            return 0
        elif self._body_is_str:
            PyUnicode_Resize(&self._body, room)
        else:
            _PyBytes_Resize(&self._body, room)         # on failure it sets _body to NULL, and raises MemoryError
        self._body_room = room
        return 0

    cdef Py_ssize_t _parse_header(self, const uint8_t *data, Py_ssize_t size) except -1:
        """Parse and judge the header at data[:size]; return its size, or 0 while it is not whole."""
        cdef Py_ssize_t need = 2
        cdef uint64_t length
        cdef int i
        if size < 1:
            return 0
        if not self._is_sound(data, size):
            decode_header(PyBytes_FromStringAndSize(<char *>data, min(size, MAX_HEADER)), masked=self._masked, rsv=self.rsv)
            raise SystemError("the twins disagree about a header")
        if size < 2:
            return 0
        length = data[1] & 0x7F
        if length == 126:
            need = 4
            if size < need:
                return 0
            length = <uint64_t>data[2] << 8 | data[3]
        elif length == 127:
            need = 10
            if size < need:
                return 0
            length = 0
            for i in range(2, 10):
                length = length << 8 | data[i]         # its top bit is 0: _is_sound has seen to that
        if self._masked:
            if size < need + 4:
                return 0
            memcpy(self._key, data + need, 4)
            need += 4
        self._first = data[0]
        self._length = <Py_ssize_t>length
        return need

    cdef bint _is_sound(self, const uint8_t *data, Py_ssize_t size) noexcept nogil:
        """Tell whether what is here of a header may stand (RFC 6455 section 5.2; the reasons are in `frame`)."""
        cdef uint8_t first = data[0], opcode = data[0] & 0x0F, short_
        if first & 0x70 and (first & 0x70 & ~self.rsv or not 1 <= opcode <= 2):
            return False
        if not (opcode <= 2 or 8 <= opcode <= 10) or (opcode >= 8 and not first & 0x80):
            return False
        if size < 2:
            return True
        short_ = data[1] & 0x7F
        if (data[1] >> 7) != self._masked or (opcode >= 8 and short_ > 125):
            return False
        if short_ == 126 and size >= 4:
            return data[2] != 0 or data[3] >= 126
        if short_ == 127 and size >= 10:
            return data[2] < 0x80 and (data[2] | data[3] | data[4] | data[5] | data[6] | data[7]) != 0
        return True

    cdef bint _is_whole(self, const uint8_t *data, Py_ssize_t size) noexcept nogil:
        """Tell whether data[:size] begins with a whole, sound frame."""
        cdef uint64_t length
        cdef Py_ssize_t need = 2
        if size < 2 or not self._is_sound(data, size):
            return False
        length = data[1] & 0x7F
        if length == 126:
            if size < 4:
                return False
            need, length = 4, <uint64_t>data[2] << 8 | data[3]
        elif length == 127:                            # longer than what is worth waiting for
            return False
        if self._masked:
            need += 4
        return <Py_ssize_t>length <= size - need

    cdef bint _unmask_copy(self, uint8_t *to, const uint8_t *data, Py_ssize_t size, Py_ssize_t offset) noexcept nogil:
        """Copy `size` bytes, unmasked if the peer owes us masks; `offset` is their place in the payload.

        Tell whether any of them is not ASCII.
        """
        return gws_mask_copy(to, data, size, gws_turn(self._key, offset) if self._masked else 0)

    cdef Py_ssize_t _receive(self, char *data, Py_ssize_t size) except -1:
        """Receive at most `size` bytes into `data`; return how many.   Blocks.

        Waits first and receives then, once a turn: no second recv is needed to learn that the socket is empty, and
        whoever sends without pause leaves the hub to the others in between.  An exception that lands here (a Timeout,
        a kill) lands in the wait, before a byte was taken.
        """
        cdef Py_ssize_t count
        self._corked = False
        if self._chunks_begin < self._chunks_end and not self._blocked:
            self._flush()
        while True:
            self._park(NOWHERE)
            if self._tls:
                try:
                    count = self._sock.recv_into(PyMemoryView_FromMemory(data, size, PyBUF_WRITE))
                except AGAIN:
                    continue
            else:
                count = recv(self._fd, data, size, MSG_DONTWAIT)
                if count < 0:
                    if must_wait():
                        continue
                    raise_errno()
            break
        if count == 0:
            raise EOFError("the peer closed the connection")
        self.received += count
        self._turn.received += count
        return count

    cdef bint _is_spent(self) except -1:
        """Tell whether the time is over that this connection has for one batch.

        Who is not trusted has no time but its turn, whoever has called its greenlet; who is known to take long has all
        of that, the others no more than would make them known for it.
        """
        cdef double now, used
        if self._proof:
            used = clock(CLOCK_THREAD_CPUTIME_ID)
            if self._turn.running != <void *>self or used > <double>self._turn.lanes.until:
                return True
            if not self._turn.on_trust:
                return self._lane != HEAVY and used - self._turn.began > long_
        now = clock(CLOCK_MONOTONIC)
        if self._until == 0:
            self._until = now + long_
        if now <= self._until:
            return False
        # By the clock on the wall it has taken long.  From here on it is timed in earnest.
        used, self._until = clock(CLOCK_THREAD_CPUTIME_ID), now + long_
        if self._mark == 0:
            self._mark = used
        return used - self._mark > long_

    cdef int _park(self, int lane) except -1:
        """Wait until the socket is readable (lane: NOWHERE), or just for the others.

        No system call begins or ends the wait: we stay watched throughout.
        """
        cdef bint decrypted
        self._check()
        if self._closed:
            raise EOFError("the connection was closed")
        if self._reader is not None:
            raise RuntimeError(f"{self!r} is being read by {self._reader!r} already")
        reader = <object>PyGreenlet_GetCurrent()
        Py_DECREF(reader)                              # the call's reference; `reader` has its own
        if reader is self._hub:
            raise BlockingSwitchOutError("a read would block the hub")
        decrypted = self._tls and self._sock.pending()     # the kernel knows nothing of it
        if lane != NOWHERE or (decrypted and self._is_spent()):
            if self._turn.running == <void *>self:
                self._turn.judge()              # by what it did, it may stand in another lane now
            self._line_up(max(lane, self._lane))
        elif decrypted:
            self._hub.loop.run_callback(self)
        elif not self._watching or self._age != self._turn.age:
            self._turn.watch(self)
            self._watching, self._age = True, self._turn.age
        if self._resting or not decrypted:
            self._until = self._mark = 0
        self._reader = reader
        accounted = type(reader) is kind
        if accounted:
            away()
        try:
            PyGreenlet_Switch(<PyGreenlet *>self._turn.who_is_next(), NULL, NULL)
        finally:
            self._reader, self._resting = None, False
            if accounted:
                back(reader)
        if self._closed:
            raise EOFError("the connection was closed")
        return 0

    cdef int _wake(self) except -1:
        """Go on in the greenlet that is parked here; if there is none, be woken no more: TCP holds the peer back."""
        if self._reader is None:
            self._unwatch()
            self._turn.rest()
        elif not self._resting:
            if self._proof == 0 or self._turn.lanes.may_go():
                self._turn.run(self)
            else:
                self._line_up(self._lane)
        return 0

    cdef int _line_up(self, int lane) except -1:
        """Rest until it is our turn.   Meanwhile nothing is to wake us: what the set has to tell is known."""
        self._resting = True
        self._unwatch()
        if not self._queued:
            self._queued = True
            self._turn.lanes.join(lane, self)
        return 0

    def __call__(self):
        """End the rest, if there still is one: what the lanes call, and the loop."""
        self._resting = self._queued = False
        if self._reader is not None:
            self._turn.run(self)

    cdef void _unwatch(self) noexcept:
        if self._watching and self._age == self._turn.age:     # watching: __init__ has come to its end
            self._turn.unwatch(self)
        self._watching = False

    cdef int _add_left(self, const char *data, Py_ssize_t size) except -1:
        """Keep data[:size] behind what is left already."""
        cdef Py_ssize_t have = self._left_end - self._left_begin
        cdef char *left
        if have and self._left_begin:
            memmove(self._left, self._left + self._left_begin, have)     # within the same buffer
        left = <char *>PyMem_Realloc(self._left, have + size)
        if left == NULL:
            raise MemoryError
        memcpy(left + have, data, size)                # have + size is the buffer's size
        self._left, self._left_begin, self._left_end = left, 0, have + size
        return 0

    cdef void _use_left(self, Py_ssize_t count) noexcept:
        """Let go of `count` bytes, and of the buffer with the last of them: who is idle holds none."""
        self._left_begin += count
        if self._left_begin >= self._left_end:
            PyMem_Free(self._left)
            self._left = NULL
            self._left_begin = self._left_end = 0

    # --------------------------------------------------------------------------------------------------- writing

    def write_frame(self, int first, payload):
        """Write one frame, masked if we are the client.   Blocks while the peer is too slow.

        `payload` is bytes, or str: its UTF-8.  Where more than `bound` bytes wait already, a data frame is not taken:
        BufferError.
        """
        cdef const char *data
        cdef Py_ssize_t size
        cdef uint8_t header[MAX_HEADER]
        cdef uint8_t key[4]
        cdef int head
        self._check()
        self._check_writable()
        if self.pending > self.bound and not first & 0x08:
            raise BufferError(f"{self.pending} bytes are waiting already")
        if type(payload) is str:
            if PyUnicode_IS_COMPACT_ASCII(payload):    # its own bytes are its UTF-8
                data = PyUnicode_AsUTF8AndSize(payload, &size)
            else:
                payload = (<str>payload).encode()
                data, size = PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
        else:
            payload = payload if type(payload) is bytes else bytes(payload)
            data, size = PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
        head = encode_header(header, first, size)
        if first & 0x88 == 0x80:
            self.messages_sent += 1
            self._turn.messages_sent += 1
            if self.unanswered:
                self.unanswered -= 1
        if not self._masked:
            self._turn.draw(key)
            header[1] |= 0x80
            memcpy(header + head, key, 4)              # head <= 10, and the header has 14
            head += 4
            masked = PyBytes_FromStringAndSize(NULL, size)
            gws_mask_copy(<uint8_t *>PyBytes_AS_STRING(masked), <const uint8_t *>data, size, gws_turn(key, 0))
            payload, data = masked, PyBytes_AS_STRING(masked)      # the unmasked one lived until here
        if self._chunks_begin == self._chunks_end and not self._corked and not self._tls:
            self._send_now(header, head, payload, data, size)
        else:
            self._put(<char *>header, head, None)
            self._put(data, size, payload)
            self._leave()

    cdef int _send_now(self, const uint8_t *header, int head, payload, const char *data, Py_ssize_t size) except -1:
        """Nothing waits before this frame: hand it to the kernel, and queue what that does not take."""
        cdef iovec vector[2]
        cdef Py_ssize_t count
        cdef char *out = self._turn.out
        if size <= SMALL:
            memcpy(out, header, head)                  # head + size <= MAX_HEADER + SMALL, which `out` has
            memcpy(out + head, data, size)
            count = send(self._fd, out, head + size, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            vector[0].iov_base, vector[0].iov_len = <void *>header, head
            vector[1].iov_base, vector[1].iov_len = <void *>data, size
            count = send_vector(self._fd, vector, 2)
        if count == head + size:
            self.sent += count
            self._turn.sent += count
            return 0
        if count < 0:
            if not must_wait():
                self._fail()
                raise BrokenPipeError("the connection is broken") from self._error
            count = 0
        self.sent += count
        self._turn.sent += count
        if count < head:
            self._put(<char *>header + count, head - count, None)
            count = head
        self._put(data + (count - head), size - (count - head), payload)
        self._watch_for_room()
        self._warn_if_slow()
        self._wait_if_full()
        if self._error is not None:
            raise BrokenPipeError("the connection is broken") from self._error
        return 0

    def write(self, data):
        """Write bytes as they are, atomic among greenlets.   Blocks while the peer is too slow.

        A Timeout that ends the wait leaves them queued: what has begun to go out goes out whole.
        """
        self._check()
        self._check_writable()
        data = data if type(data) is bytes else bytes(data)
        self._put(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
        self._leave()

    def post(self, data):
        """Queue a frame; it leaves when this turn of the loop ends, in one send with what else is queued by then."""
        self._check()
        self._check_writable()
        data = data if type(data) is bytes else bytes(data)
        self._put(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
        if PyBytes_AS_STRING(data)[0] & 0x88 == 0x80:      # (of no bytes, the first is a NUL)
            self.messages_sent += 1
            self._turn.messages_sent += 1
            if self.unanswered:
                self.unanswered -= 1
        self._leave_later()

    def flush(self):
        """Hand the kernel what it takes of the queue; a watcher brings it the rest."""
        self._check()
        if not self._blocked:
            self._flush()

    def drain(self, long long left=0):
        """Wait until the kernel has taken everything that is there now, but for `left` bytes.   Blocks."""
        self.flush()
        if self.pending > left:
            self._wait_written(self.sent + self.pending - left)

    cdef int _check_writable(self) except -1:
        if self._closed or self._error is not None:
            raise BrokenPipeError("the connection is closed") from self._error
        return 0

    cdef int _put(self, const char *data, Py_ssize_t size, owner) except -1:
        """Queue data[:size]: a copy if it is small, else where it is, kept alive by `owner`."""
        cdef Chunk *last = NULL
        cdef Chunk *chunk
        if size == 0:
            return 0
        if self._chunks_begin < self._chunks_end:
            last = &self._chunks[self._chunks_end - 1]
        if size <= SMALL:
            if last == NULL or last.owner != NULL or (last.end + size > SMALL and last.end + size > last.room):
                last = self._new_chunk()
            if last.end + size > last.room:
                grow_chunk(last, size)
            memcpy(last.data + last.end, data, size)   # last.end + size <= last.room
            last.end += size
        else:
            chunk = self._new_chunk()
            Py_INCREF(owner)
            chunk.owner, chunk.data, chunk.end = <PyObject *>owner, <char *>data, size
        self.pending += size
        return 0

    cdef Chunk *_new_chunk(self) except NULL:
        cdef Chunk *chunks
        cdef int room
        if self._chunks_end == self._chunks_room and self._chunks_begin > self._chunks_room // 2:
            memmove(self._chunks, self._chunks + self._chunks_begin,       # within the table; what was sent makes room
                    (self._chunks_end - self._chunks_begin) * sizeof(Chunk))
            self._chunks_end -= self._chunks_begin
            self._chunks_begin = 0
        if self._chunks_end == self._chunks_room:
            room = max(2 * self._chunks_room, 4)
            chunks = <Chunk *>PyMem_Realloc(self._chunks, room * sizeof(Chunk))
            if chunks == NULL:
                raise MemoryError
            self._chunks, self._chunks_room = chunks, room
        chunks = &self._chunks[self._chunks_end]       # _chunks_end < _chunks_room
        chunks.owner, chunks.data = NULL, NULL
        chunks.begin = chunks.end = chunks.room = 0
        self._chunks_end += 1
        return chunks

    cdef int _leave(self) except -1:
        if self._corked and self.pending < HIGH_WATER:
            return self._leave_later()
        if not self._blocked:
            self._flush()
        self._wait_if_full()
        if self._error is not None:
            raise BrokenPipeError("the connection is broken") from self._error
        return 0

    cdef int _leave_later(self) except -1:
        if not self._late:
            self._late = True
            self._turn.add(self)
        return 0

    cdef int _wait_if_full(self) except -1:
        if self.pending > HIGH_WATER:
            self._wait_written(self.sent + self.pending - HIGH_WATER)
        return 0

    cdef int _wait_written(self, long long target) except -1:
        """Wait until the kernel has taken `target` bytes in all."""
        waiter = Waiter(self._hub)
        entry = (target, waiter)
        if self._writers is None:
            self._writers = []
        self._writers.append(entry)
        try:
            waiter.get()
        finally:
            if entry in self._writers:
                self._writers.remove(entry)
        return 0

    cdef int _flush(self) except -1:
        """Send until the queue is empty or the kernel is full."""
        cdef Py_ssize_t offered = 0, count
        while self._chunks_begin < self._chunks_end:
            count = self._send_tls(&offered) if self._tls else self._send_some(&offered)
            if count < 0:
                if self._error is not None:
                    break
                count = 0
            self._taken(count)
            if count < offered:                        # a short send says that the kernel is full
                self._watch_for_room()
                break
        self._warn_if_slow()
        return 0

    cdef Py_ssize_t _send_some(self, Py_ssize_t *offered) except -2:
        """Offer the kernel what is queued; return what it took, -1 for nothing (or an error: then _error is set)."""
        cdef iovec vector[CHUNKS]
        cdef Py_ssize_t count
        cdef int i, chunks = min(self._chunks_end - self._chunks_begin, CHUNKS)
        cdef Chunk *chunk = &self._chunks[self._chunks_begin]
        offered[0] = 0
        for i in range(chunks):
            vector[i].iov_base = chunk[i].data + chunk[i].begin
            vector[i].iov_len = chunk[i].end - chunk[i].begin
            offered[0] += vector[i].iov_len
        if chunks == 1:
            count = send(self._fd, vector[0].iov_base, vector[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            count = send_vector(self._fd, vector, chunks)
        if count < 0 and not must_wait():
            self._fail()
        return count

    cdef Py_ssize_t _send_tls(self, Py_ssize_t *offered) except -2:
        """Offer the TLS socket the first chunk.

        OpenSSL wants a send that it put off to be repeated with the same bytes: the chunk grows at its end only.
        """
        cdef Chunk *chunk = &self._chunks[self._chunks_begin]
        data = PyBytes_FromStringAndSize(chunk.data + chunk.begin, chunk.end - chunk.begin)
        offered[0] = PyBytes_GET_SIZE(data)
        try:
            return self._sock.send(data)
        except AGAIN:
            return -1
        except OSError as error:
            self._break(error)
            return -1

    cdef int _fail(self) except -1:
        """Give up, for the reason in errno."""
        try:
            raise_errno()
        except OSError as error:
            self._break(error)
        return 0

    cdef int _taken(self, Py_ssize_t count) except -1:
        """Let go of what the kernel has taken, and wake who waited for that."""
        cdef Chunk *chunk
        cdef Py_ssize_t size
        self.pending -= count
        self.sent += count
        self._turn.sent += count
        while count:
            chunk = &self._chunks[self._chunks_begin]
            size = chunk.end - chunk.begin
            if count < size:
                chunk.begin += count
                break
            free_chunk(chunk)
            self._chunks_begin += 1
            count -= size
        if self._chunks_begin == self._chunks_end:
            self._drop_chunks()
        while self._writers and self._writers[0][0] <= self.sent:
            self._hub.loop.run_callback(self._writers.pop(0)[1].switch, None)
        return 0

    cdef void _drop_chunks(self) noexcept:
        """Forget the queue.   Its table stays for the next one, unless it had grown."""
        cdef int i
        for i in range(self._chunks_begin, self._chunks_end):
            free_chunk(&self._chunks[i])
        self._chunks_begin = self._chunks_end = 0
        PyMem_Free(self._chunks)
        self._chunks, self._chunks_room = NULL, 0

    cdef int _watch_for_room(self) except -1:
        if self._write_watcher is None:
            self._write_watcher = self._hub.loop.io(self._fd, WRITE)
        if not self._blocked:
            self._write_watcher.start(self._writable)
            self._blocked = True
        return 0

    def _writable(self):
        self._flush()
        if self._chunks_begin == self._chunks_end and self._blocked:
            self._write_watcher.stop()
            self._blocked = False

    cdef int _warn_if_slow(self) except -1:
        if self.pending >= max(<long long>WARN_FROM, self._warned * 2):
            while self.pending >= max(<long long>WARN_FROM, self._warned * 2):
                self._warned = max(<long long>WARN_FROM, self._warned * 2)
        elif self.pending == 0 and self._warned:
            self._warned = 0
        else:
            return 0
        if self.warn is not None:
            self.warn(self.pending)
        return 0

    # ------------------------------------------------------------------------------------------------- the end

    def shutdown(self):
        """Tell the peer that nothing more comes from us (a TCP FIN); reading goes on."""
        self.flush()
        with contextlib.suppress(OSError, ValueError):
            if self._tls:
                with contextlib.suppress(*AGAIN):
                    self._sock.unwrap()                # its close_notify; we do not wait for the peer's
            send_fin(self._sock)

    def linger(self):
        """Throw away what the peer still sends, until it closes.   Blocks.

        Closing a socket with bytes unread resets it, and takes our last words from the peer.
        """
        self._use_left(self._left_end - self._left_begin)
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._receive(self._turn.scratch + PREFIX, SCRATCH)

    def close(self):
        """Close the socket; whoever waits in a read or a write is told.  Safe to repeat.

        Every watcher is stopped before its descriptor is closed: libev aborts the process otherwise.
        """
        self._check()
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        self._turn.rest()
        if self._write_watcher is not None:
            self._write_watcher.stop()
            self._write_watcher.close()
            self._write_watcher = None
        self._use_left(self._left_end - self._left_begin)
        self._wrong = None
        self._sock.close()
        self._break(BrokenPipeError("the connection was closed"))
        if self._reader is not None:
            self._hub.loop.run_callback(self)

    cdef int _break(self, error) except -1:
        """Give up what is queued: nobody will take it."""
        error.__traceback__ = None  # its frames hold us, as we hold it
        self._error = error
        self._drop_chunks()
        self.pending = 0
        if self._blocked and self._write_watcher is not None:
            self._write_watcher.stop()
        self._blocked = False
        while self._writers:
            self._hub.loop.run_callback(self._writers.pop(0)[1].switch, None)
        return 0

    cdef int _check(self) except -1:
        if PyThread_get_thread_ident() != self._thread:
            raise RuntimeError(f"{self!r} belongs to the thread that made it")
        return 0


# Greenlets of this class keep an account of when they run; we switch past their own switch(), so we call these.
cdef object kind = None, back = None, away = None


def account(kind_, back_, away_):
    """See `stream.account`."""
    global kind, back, away
    kind, back, away = kind_, back_, away_


cdef double long_ = turn.LONG
cdef Py_ssize_t LARGE_MESSAGE = turn.LARGE
cdef int proof = turn.PROOF, proof_most = turn.PROOF_MOST


cdef double clock(clockid_t which) noexcept nogil:
    cdef timespec now
    clock_gettime(which, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef object steal(PyObject *owned):
    """Return an object together with the reference that is held to it."""
    result = <object>owned
    Py_DECREF(result)
    return result


cdef object decode_utf8(const char *data, Py_ssize_t size):
    try:
        return PyUnicode_DecodeUTF8(data, size, NULL)
    except UnicodeDecodeError:
        raise not_utf8() from None


cdef Py_ssize_t find_blank_line(const char *data, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Return where the text behind the first CR LF CR LF in data[begin:end] begins, or -1."""
    cdef Py_ssize_t i = begin
    while i + 4 <= end:                                # data[i + 3] is within data[:end]
        if data[i + 3] == 10 and data[i + 2] == 13 and data[i + 1] == 10 and data[i] == 13:
            return i + 4
        i += 1
    return -1


cdef int encode_header(uint8_t *header, int first, Py_ssize_t size) noexcept nogil:
    """Write the header, without a mask, to header[:10]; return its size."""
    cdef int i
    header[0] = <uint8_t>first
    if size < 126:
        header[1] = <uint8_t>size
        return 2
    if size < 0x10000:
        header[1], header[2], header[3] = 126, <uint8_t>(size >> 8), <uint8_t>size
        return 4
    header[1] = 127
    for i in range(8):
        header[2 + i] = <uint8_t>(<uint64_t>size >> (56 - 8 * i))
    return 10


cdef ssize_t send_vector(int fd, iovec *vector, int count) noexcept nogil:
    cdef msghdr message
    memset_message(&message)
    message.msg_iov, message.msg_iovlen = vector, count
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)


cdef inline void memset_message(msghdr *message) noexcept nogil:
    cdef size_t i
    for i in range(sizeof(msghdr)):
        (<char *>message)[i] = 0


cdef int grow_chunk(Chunk *chunk, Py_ssize_t size) except -1:
    """Let a chunk's own buffer have `size` bytes more than it holds."""
    cdef Py_ssize_t room = max(2 * chunk.room, chunk.end + size, 512)
    cdef char *data = <char *>PyMem_Realloc(chunk.data, room)
    if data == NULL:
        raise MemoryError
    chunk.data, chunk.room = data, room
    return 0


cdef void free_chunk(Chunk *chunk) noexcept:
    if chunk.owner != NULL:
        Py_XDECREF(chunk.owner)
    else:
        PyMem_Free(chunk.data)


cdef bint must_wait() noexcept nogil:
    """Tell whether the kernel refused for the moment only (EAGAIN is EWOULDBLOCK wherever libev runs)."""
    return errno == EAGAIN or errno == EINTR


cdef int raise_errno() except -1:
    raise OSError(errno, os.strerror(errno))
