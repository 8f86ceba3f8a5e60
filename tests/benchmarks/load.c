/* load: what a WebSocket server on loopback bears.      cc -O2 -o load load.c      (for -z: cc -O2 -DPACKED ... -lz)
 *
 *     load echo|fanout|churn|idle PORT [-c connections] [-s bytes] [-d depth] [-t seconds] [-w seconds] [-P pid] [-z] [-u]
 *
 *   echo    each connection has `depth` messages in flight, and sends another for each that comes back
 *   fanout  one connection sends, all of them receive; `depth` messages have not reached everybody yet
 *   churn   connect, shake hands, close, and again
 *   idle    connect, shake hands, and keep silent: what does a connection cost the server in memory?
 *
 * Counts for `-t` seconds, after `-w` seconds of the same that are not counted.  -P names the server's process: its
 * processor time (of all its threads) and its memory are read.  Prints one line of JSON; exit status 1 if `errors` is
 * not 0 in it, 2 if there is no line.
 *
 *   -z      permessage-deflate is asked for; the message is JSON, deflated in advance, and what comes back is inflated
 *   -u      (idle) each connection has its message echoed once, before it keeps silent
 *
 * It has to cost little beside the server: one thread, epoll, frames that were masked in advance, and no buffer of a
 * connection's own.  What comes in is judged where it was received, byte for byte: each message has to be the one that
 * was sent, in one frame or in fragments, unmasked, and without extensions but the one of -z.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef PACKED
#include <zlib.h>
#endif

enum mode { ECHO, FANOUT, CHURN, IDLE, MODES };
enum state { UNBORN, CONNECTING, UPGRADING, OPEN, LOST };
enum { CONTINUATION, TEXT, CLOSE = 8, FIN = 0x80, RSV = 0x70, RSV1 = 0x40, MASK = 0x80 };
enum { AT_ONCE = 128, SCRATCH = 256 * 1024, HEAD = 2048, PATIENCE = 60, FEW = 8 };

static const char *const names[MODES] = {"echo", "fanout", "churn", "idle"};
/* The key of RFC 6455 section 1.3, and the answer that it must have. */
static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==", answer[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

struct conn {
    int fd;
    enum state state;
    bool blocked;                /* the kernel takes no more for now */
    char *head;                  /* of the answer to the handshake, until it is whole; then NULL */
    size_t head_len;
    uint8_t start[10];           /* of a frame, up to its payload */
    unsigned start_len;
    uint64_t left;               /* of its payload: bytes to come */
    uint64_t at;                 /* where they are in the message */
    bool begun;                  /* a message in fragments is not over yet */
    bool packed;                 /* it is compressed */
    void *inflater;
    size_t unsent, phase;        /* bytes to send, and where the first of them is in a frame */
    uint64_t sent, got;          /* messages */
    double *when;                /* when each message in flight was sent */
};

static enum mode mode;
static int total = 64, depth = 1, port, epoll_fd;
static pid_t server;
static size_t size = 128;
static double seconds = 2, warmup = 0.3;
static bool pack, use;                               /* -z, -u */

static struct conn *conns;
static uint8_t *message, *burst, scratch[SCRATCH];   /* a message; as many frames of it as are sent at once */
static uint8_t *payload;                             /* of such a frame: the message, or what it deflates to */
static size_t frame_len, burst_len;

static int begun, opened;                            /* connections */
static uint64_t work, bytes, errors;                 /* messages that came, or handshakes; of payload; of any kind */
static uint64_t histogram[64 * 64], samples;         /* of nanoseconds, by their highest seven bits */

/* ------------------------------------------------------------------------------------------------- measuring */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double server_cpu(void)
{
    clockid_t clock;
    struct timespec t;
    if (!server || clock_getcpuclockid(server, &clock) || clock_gettime(clock, &t))
        return 0;
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double server_kib(void)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)server);
    FILE *file = server ? fopen(path, "r") : NULL;
    if (file && fscanf(file, "%*d %ld", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024.0);
}

static void sample(double since, double until)
{
    uint64_t ns = (until - since) * 1e9 + 64;        /* 64: so that there are seven bits */
    int shift = 57 - __builtin_clzll(ns);
    histogram[shift * 64 + ((ns >> shift) & 63)]++;
    samples++;
}

static double percentile(double q)                   /* in microseconds */
{
    uint64_t before = 0, wanted = q * samples;
    for (int i = 0; i < 64 * 64; i++)
        if ((before += histogram[i]) > wanted)
            return ((uint64_t)(64 + i % 64) << (i / 64)) / 1e3;
    return 0;
}

/* ----------------------------------------------------------------------------------------------- connections */

static void give_up(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void drop(struct conn *c)
{
    if (c->state == OPEN)
        opened--;
    close(c->fd);
    free(c->head);
#ifdef PACKED
    if (c->inflater)
        inflateEnd(c->inflater);
    free(c->inflater);
    c->inflater = NULL;
#endif
    c->head = NULL;
    c->state = LOST;
}

static void fail(struct conn *c, const char *why)
{
    if (errors++ < 3)
        fprintf(stderr, "load: connection %d: %s\n", (int)(c - conns), why);
    drop(c);
}

static void watch(struct conn *c, bool blocked)
{
    struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = c};
    if (c->blocked != blocked && epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event))
        give_up("epoll_ctl");
    c->blocked = blocked;
}

static void start(struct conn *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    double *when = c->when;
    *c = (struct conn){.state = CONNECTING, .blocked = true, .when = when, .head = malloc(HEAD)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        give_up("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS)
        give_up("connect");
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event))
        give_up("epoll_ctl");
}

static void ask(struct conn *c)                      /* it is connected: now the handshake */
{
    char request[384];
    int error = 0, len;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
    if (error) {
        fail(c, strerror(error));
        return;
    }
    len = snprintf(request, sizeof request,
                   "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n", port, key,
                   pack ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    watch(c, false);
    c->state = UPGRADING;
    if (send(c->fd, request, len, MSG_NOSIGNAL) != len)
        fail(c, "the request was not sent");
}

/* --------------------------------------------------------------------------------------------------- sending */

static void write_json(void)                         /* records as they come from a table, with a few words in them */
{
    static const char *const words[] = {"open", "closed", "paid", "refused", "waiting", "sent", "lost", "returned"};
    uint32_t chance = 1;
    for (size_t at = 0, id = 1; at < size; id++) {
        char record[256];
        uint32_t n[4];
        for (int i = 0; i < 4; i++)
            n[i] = (chance = chance * 1664525 + 1013904223) >> 8;
        int len = snprintf(record, sizeof record, "{\"id\": %zu, \"user\": \"user%u\", \"state\": \"%s\", \"amount\": "
                           "%u.%02u, \"note\": \"%s and %s\"}, ", id, n[0] % 100000, words[n[1] % 8], n[2] % 10000,
                           n[2] / 10000 % 100, words[n[3] % 8], words[n[3] / 8 % 8]);
        memcpy(message + at, record, (size_t)len < size - at ? (size_t)len : size - at);
        at += len;
    }
}

static size_t deflate_message(void)                  /* on its own, within a window that any server may ask for */
{
#ifdef PACKED
    z_stream z = {0};
    size_t room = size + size / 8 + 64;
    if (deflateInit2(&z, 6, Z_DEFLATED, -10, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        give_up("deflateInit2");
    payload = malloc(room);
    z.next_in = message, z.avail_in = size, z.next_out = payload, z.avail_out = room;
    if (deflate(&z, Z_SYNC_FLUSH) != Z_OK || z.avail_in)
        give_up("deflate");
    deflateEnd(&z);
    return room - z.avail_out - 4;
#else
    errno = ENOSYS;
    give_up("-z needs a program that was compiled with -DPACKED");
    return 0;
#endif
}

static void make_message(void)
{
    uint8_t mask[4] = {0x9d, 0x17, 0xe3, 0x58}, start[14] = {FIN | TEXT};
    size_t len = 2, copies, sent = size;
    message = payload = malloc(size + 1);
    if (pack) {
        write_json();
        sent = deflate_message();
        start[0] |= RSV1;
    } else
        for (size_t i = 0; i < size; i++)
            message[i] = ' ' + (i * 31 + i / 95) % 95;       /* bytes that are out of place will show */
    if (sent < 126) {
        start[1] = sent;
    } else if (sent < 65536) {
        start[1] = 126;
        start[len++] = sent >> 8;
        start[len++] = sent;
    } else {
        start[1] = 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            start[len++] = (uint64_t)sent >> shift;
    }
    start[1] |= MASK;
    memcpy(start + len, mask, 4);
    len += 4;
    frame_len = len + sent;
    copies = frame_len * depth > 1 << 20 ? 1 : depth;
    burst_len = frame_len * copies;
    burst = malloc(burst_len);
    memcpy(burst, start, len);
    for (size_t i = 0; i < sent; i++)
        burst[len + i] = payload[i] ^ mask[i & 3];
    for (size_t i = 1; i < copies; i++)
        memcpy(burst + i * frame_len, burst, frame_len);
}

static void flush(struct conn *c)
{
    while (c->unsent) {
        size_t most = burst_len - c->phase;
        ssize_t n = send(c->fd, burst + c->phase, c->unsent < most ? c->unsent : most, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch(c, true);
            return;
        }
        if (n < 0) {
            fail(c, strerror(errno));
            return;
        }
        c->phase = (c->phase + n) % frame_len;
        c->unsent -= n;
    }
    watch(c, false);
}

static void send_messages(struct conn *c, uint64_t count)
{
    double t = now();
    for (uint64_t i = 0; i < count; i++)
        c->when[c->sent++ % depth] = t;
    c->unsent += count * frame_len;
    if (!c->blocked)
        flush(c);
}

static void say_goodbye(struct conn *c)
{
    static const uint8_t frame[] = {FIN | CLOSE, MASK | 2, 0, 0, 0, 0, 1000 >> 8, 1000 & 255};
    if (send(c->fd, frame, sizeof frame, MSG_NOSIGNAL) != sizeof frame)
        fail(c, "the Close was not sent");
}

/* ------------------------------------------------------------------------------------------------- receiving */

static void got_message(struct conn *c)
{
    work++;
    bytes += size;
    c->got++;
    if (mode == ECHO) {
        if (c->got > c->sent)
            fail(c, "more came back than was sent");
        else
            sample(c->when[(c->got - 1) % depth], now());
    }
}

static void got_head(struct conn *c)
{
    c->head[c->head_len] = 0;
    if (strncmp(c->head, "HTTP/1.1 101 ", 13) || !strstr(c->head, answer)
        || pack != !!strstr(c->head, "permessage-deflate")) {
        c->head[strcspn(c->head, "\r")] = 0;
        fail(c, c->head);
        return;
    }
    free(c->head);
    c->head = NULL;
    c->state = OPEN;
    opened++;
    if (mode == CHURN) {
        work++;
        sample(c->when[0], now());
        say_goodbye(c);
    }
}

static size_t take_head(struct conn *c, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (c->head_len == HEAD - 1) {
            fail(c, "the head of the answer is too long");
            return n;
        }
        c->head[c->head_len++] = p[i];
        if (p[i] == '\n' && c->head_len > 3 && !memcmp(c->head + c->head_len - 4, "\r\n\r\n", 4)) {
            got_head(c);
            return i + 1;
        }
    }
    return n;
}

static void got_start(struct conn *c)                /* of a frame: all that is before its payload */
{
    uint64_t len = c->start[1] & 127;
    unsigned more = len == 127 ? 8 : len == 126 ? 2 : 0;
    int opcode = c->start[0] & 15;
    for (unsigned i = 0; more && i < more; i++)
        len = (i ? len << 8 : 0) | c->start[2 + i];
    c->left = len;
    if (opcode < CLOSE && opcode != CONTINUATION)
        c->packed = pack && c->start[0] & RSV1;
    if (c->start[0] & RSV & ~(pack && opcode == TEXT ? RSV1 : 0) || c->start[1] & MASK)
        fail(c, "a masked frame, or one of an extension");
    else if (opcode == CLOSE && mode != CHURN)
        fail(c, "the server said goodbye");
    else if (opcode >= CLOSE)
        return;
    else if (opcode != (c->begun ? CONTINUATION : TEXT) || (len > size - c->at && !c->packed) || mode == CHURN
             || (mode == IDLE && !use))
        fail(c, "another message than was sent");
}

static bool goes_on(struct conn *c, const uint8_t *p, size_t n)      /* tell whether these are the message's next bytes */
{
#ifdef PACKED
    static uint8_t plain[SCRATCH];
    z_stream *z = c->inflater;
    if (c->packed) {
        if (!z && (!(z = c->inflater = calloc(1, sizeof *z)) || inflateInit2(z, -15) != Z_OK))
            give_up("inflateInit2");
        z->next_in = (uint8_t *)p, z->avail_in = n;
        do {
            z->next_out = plain, z->avail_out = sizeof plain;
            int said = inflate(z, Z_SYNC_FLUSH);
            size_t k = sizeof plain - z->avail_out;
            if ((said != Z_OK && said != Z_BUF_ERROR) || k > size - c->at || memcmp(plain, message + c->at, k))
                return false;
            c->at += k;
        } while (!z->avail_out);
        return true;
    }
#endif
    c->at += n;
    return !memcmp(p, message + c->at - n, n);
}

static void got_frame(struct conn *c)
{
    int opcode = c->start[0] & 15;
    c->start_len = 0;
    if (opcode < CLOSE && c->packed && c->start[0] & FIN && !goes_on(c, (const uint8_t *)"\0\0\xff\xff", 4)) {
        fail(c, "a message came back changed");
        return;
    }
    if (opcode == CLOSE)
        drop(c);                                     /* of churn */
    if (opcode >= CLOSE)
        return;
    c->begun = !(c->start[0] & FIN);
    if (c->begun)
        return;
    if (c->at < size)
        fail(c, "a shorter message than was sent");
    else
        got_message(c);
    c->at = 0;
}

static unsigned start_length(const struct conn *c)
{
    unsigned len = c->start_len < 2 ? 0 : c->start[1] & 127;
    return len == 127 ? 10 : len == 126 ? 4 : 2;
}

static void take_frames(struct conn *c, const uint8_t *p, size_t n)
{
    const uint8_t *end = p + n;
    while (c->state == OPEN) {
        if (c->start_len < start_length(c)) {
            if (p == end)
                return;
            c->start[c->start_len++] = *p++;
            if (c->start_len == start_length(c))
                got_start(c);
            continue;
        }
        size_t k = c->left < (uint64_t)(end - p) ? c->left : (size_t)(end - p);
        if ((c->start[0] & 15) < CLOSE && !goes_on(c, p, k)) {
            fail(c, "a message came back changed");
            return;
        }
        p += k;
        if (c->left -= k)
            return;
        got_frame(c);
    }
}

static void hung_up(struct conn *c, const char *why)
{
    if (mode == CHURN && c->state == OPEN)
        drop(c);                                     /* without a Close: its own affair */
    else
        fail(c, why);
}

static void readable(struct conn *c)
{
    uint64_t before = c->got;
    for (int turn = 0; turn < 4 && (c->state == UPGRADING || c->state == OPEN); turn++) {
        ssize_t n = recv(c->fd, scratch, SCRATCH, 0), used = 0;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0) {
            hung_up(c, n ? strerror(errno) : "the server hung up");
            break;
        }
        if (c->state == UPGRADING)
            used = take_head(c, scratch, n);
        take_frames(c, scratch + used, n - used);
        if (n < SCRATCH)
            break;
    }
    if (mode == CHURN && c->state == LOST) {
        start(c);
        c->when[0] = now();
    } else if (mode == ECHO && c->state == OPEN && c->got > before)
        send_messages(c, c->got - before);
}

static void spread(void)                             /* fanout: send on, once everybody has what was sent */
{
    static uint64_t done;
    struct conn *first = conns;
    uint64_t reached = work / total, before = done;
    if (first->state != OPEN)
        return;
    for (; done < reached; done++)
        sample(first->when[done % depth], now());
    if (done > before)
        send_messages(first, done - before);
}

/* ------------------------------------------------------------------------------------------------ the course */

static void turn(void)                               /* of the loop */
{
    static struct epoll_event events[1024];
    int n = epoll_wait(epoll_fd, events, 1024, 20);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (c->state == CONNECTING)
            ask(c);
        else if (c->state != LOST) {
            if (events[i].events & EPOLLOUT)
                flush(c);
            if (c->state != LOST && events[i].events & ~EPOLLOUT)
                readable(c);
        }
    }
    if (mode == FANOUT)
        spread();
}

static void open_all(void)                           /* AT_ONCE at a time */
{
    double until = now() + PATIENCE;
    while (begun < total || (mode != CHURN && opened < total)) {
        while (begun < total && (begun - opened < AT_ONCE || mode == CHURN)) {
            conns[begun].when = calloc(depth, sizeof(double));
            conns[begun].when[0] = now();
            start(&conns[begun++]);
        }
        turn();
        if (errors || now() > until) {
            fprintf(stderr, "load: %d of %d connections were opened\n", opened, total);
            exit(2);
        }
    }
}

static void pass(double time, uint64_t least)        /* ... or somewhat more, until there is something to count */
{
    double from = now();
    uint64_t before = work;
    while (errors < (uint64_t)total && (now() < from + time || (work < before + least && now() < from + 5 * time)))
        turn();
}

static void run(void)
{
    double began = now(), memory = server_kib(), opening, from, cpu;
    uint64_t work0, bytes0;
    open_all();
    opening = now() - began;
    for (int i = 0; i < (mode == ECHO || use ? total : mode == FANOUT ? 1 : 0); i++)
        send_messages(&conns[i], depth);
    pass(warmup, use ? total : 0);
    memset(histogram, 0, sizeof histogram);
    samples = 0;
    work0 = work, bytes0 = bytes, cpu = server_cpu(), from = now();
    pass(seconds, mode == IDLE ? 0 : FEW);
    cpu = server_cpu() - cpu, from = now() - from;
    work0 = work - work0, bytes0 = bytes - bytes0;
    printf("{\"mode\": \"%s\", \"connections\": %d, \"size\": %zu, \"depth\": %d, \"seconds\": %.3f, \"count\": %lu, "
           "\"per_second\": %.1f, \"mb_per_second\": %.2f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"cpu_us\": %.3f, "
           "\"busy\": %.3f, \"opening\": %.3f, \"kib_each\": %.3f, \"errors\": %lu}\n",
           names[mode], total, size, depth, from, (unsigned long)work0, work0 / from, bytes0 / from / 1e6,
           percentile(0.5), percentile(0.99), work0 ? cpu * 1e6 / work0 : 0, cpu / from, opening,
           mode == IDLE ? (server_kib() - memory) / total : 0, (unsigned long)errors);
}

static void usage(void)
{
    fprintf(stderr, "usage: load echo|fanout|churn|idle PORT [-c connections] [-s bytes] [-d depth] [-t seconds] "
                    "[-w seconds] [-P pid] [-z] [-u]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    int option;
    while ((option = getopt(argc, argv, "c:s:d:t:w:P:zu")) != -1)
        switch (option) {
        case 'c': total = atoi(optarg); break;
        case 's': size = strtoul(optarg, NULL, 10); break;
        case 'd': depth = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'w': warmup = atof(optarg); break;
        case 'P': server = atoi(optarg); break;
        case 'z': pack = true; break;
        case 'u': use = true; break;
        default: usage();
        }
    if (argc - optind != 2 || total < 1 || depth < 1)
        usage();
    while (mode < MODES && strcmp(argv[optind], names[mode]))
        mode++;
    port = atoi(argv[optind + 1]);
    if (mode == MODES || port < 1)
        usage();
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    make_message();
    conns = calloc(total, sizeof *conns);
    epoll_fd = epoll_create1(0);
    run();
    return errors ? 1 : 0;
}
