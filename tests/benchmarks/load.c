/* The load generator of the benchmarks: one thread, epoll, WebSocket clients over loopback.
 *
 *     load WORK --port 8000 --path /echo [--connections 50] [--in-flight 1] [--size 64] [--shortest 64]
 *               [--binary] [--seconds 5] [--warmup 1] [--code 1000] [--reason bye] [--pid PID]...
 *
 * WORK is one of
 *   echo         keep `in-flight` messages on the way on every connection; count the echoes
 *   server-close connect, one echo, the server closes; count the clean cycles
 *   client-close connect, one echo, this side closes; count the clean cycles
 *   publish      one connection sends, all of them get it, then the next one; count the deliveries
 *   drain        open all, say "go" at --control, wait for the Close frames of the server
 *   hold         answer pings; a number on stdin says how many are to be open and gives a report, the
 *                end of stdin ends it
 *
 * Messages have --size bytes; with --shortest those in flight have other lengths, down to that one.
 *
 * A cycle is clean when exactly one Close frame came, with --code and --reason (closed by this side
 * the reason may be missing: RFC 6455, section 5.5.1, asks for the code), and then the end of stream.
 *
 * Every report is one line of JSON.  `cpu` is the share of one core that this program took, and
 * `server_cpu` the CPU seconds of the processes --pid, both within the measured time.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
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

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum phase { UNUSED, CONNECTING, OPENING, OPEN, CLOSED };

#define OPENING_AT_ONCE 64    /* handshakes on the way while a work opens its connections */
#define SOURCES 8             /* client addresses 127.0.0.1 to .8: more ports for short connections */
#define CYCLE_TIMEOUT 5.0     /* seconds; a cycle that takes longer is not clean */
#define STALL_TIMEOUT 10.0    /* seconds without any progress end a work */
#define SETTLE 0.3            /* seconds between the last handshake and the first message of a publish */
#define READ_SIZE (256 * 1024)

struct connection {
    int fd;
    enum phase phase;
    double began;
    char head[1024];              /* of the response */
    unsigned head_size;
    unsigned char header[14];     /* of the frame that is being read */
    unsigned header_size;
    unsigned opcode;
    bool final;
    uint64_t left;                /* bytes of its payload that are still to come */
    uint64_t offset;              /* where in the message the next byte belongs */
    unsigned char control[128];
    unsigned control_size;
    bool in_payload;
    const unsigned char *out;     /* what could not be written yet of the data frames */
    size_t out_left;
    unsigned frames_to_send;
    unsigned next_out, next_in;   /* which of those in flight is sent next, and comes back next */
    unsigned char reply[512];     /* control frames that wait behind `out` */
    unsigned reply_size;
    bool wants_write;
    unsigned closes;              /* Close frames that came */
    bool right_close;
    bool close_sent;
    double closed_at;
    unsigned seen;                /* messages */
    bool is_control;
};

static const char *work;
static int port;
static const char *path = "/echo", *control_path = "/drain", *reason = "";
static unsigned wanted = 50, in_flight = 1, size = 64, shortest, code = 1000;
static unsigned opcode_sent = TEXT;
static double seconds = 5, warmup = 1;
static pid_t pids[64];
static unsigned pid_count;

static int epoll_fd;
static struct connection *connections;
static unsigned opened, opening, started;
static unsigned char *payload, *frames; /* those in flight, twice in a row: any of them may be the first */
static size_t *starts;                  /* of the frames */
static unsigned *lengths;
static unsigned char *buffer;

static uint64_t messages, clean, unclean, pings, errors;
static double last_progress, last_close, last_end;
static char first_error[200];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double own_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* What utime and stime of /proc/PID/stat say, in nanoseconds instead of ticks of 10 ms. */
static double server_cpu(void)
{
    double sum = 0;
    for (unsigned i = 0; i < pid_count; i++) {
        clockid_t clock;
        struct timespec t;
        if (!clock_getcpuclockid(pids[i], &clock) && !clock_gettime(clock, &t))
            sum += t.tv_sec + t.tv_nsec * 1e-9;
    }
    return sum;
}

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void note_error(const char *text)
{
    if (!errors++)
        snprintf(first_error, sizeof first_error, "%.199s", text);
}

/* -- frames ---------------------------------------------------------------------------------- */

static const unsigned char MASK[4] = {0x5a, 0x17, 0xc3, 0x2e};

static size_t put_frame(unsigned char *to, unsigned opcode, const unsigned char *data, size_t length)
{
    size_t at = 0;
    to[at++] = 0x80 | opcode;
    if (length < 126) {
        to[at++] = 0x80 | length;
    } else if (length < 65536) {
        to[at++] = 0x80 | 126;
        to[at++] = length >> 8;
        to[at++] = length;
    } else {
        to[at++] = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            to[at++] = (uint64_t)length >> shift;
    }
    memcpy(to + at, MASK, 4);
    at += 4;
    for (size_t i = 0; i < length; i++)
        to[at + i] = data[i] ^ MASK[i & 3];
    return at + length;
}

static void make_frames(void)
{
    payload = malloc(size + 1);
    for (unsigned i = 0; i < size; i++)
        payload[i] = opcode_sent == TEXT ? 'a' + i % 26 : (unsigned char)(i * 31 + 7);
    frames = malloc((size + 14) * (size_t)in_flight * 2);
    starts = calloc(in_flight * 2 + 1, sizeof *starts);
    lengths = calloc(in_flight, sizeof *lengths);
    for (unsigned i = 0; i < in_flight * 2; i++) {
        unsigned length = lengths[i % in_flight] = size - i % in_flight * 7 % (size - shortest + 1);
        starts[i + 1] = starts[i] + put_frame(frames + starts[i], opcode_sent, payload, length);
    }
}

/* -- sockets --------------------------------------------------------------------------------- */

static void watch(struct connection *c, bool write)
{
    if (c->wants_write == write)
        return;
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
    c->wants_write = write;
}

static void drop(struct connection *c)
{
    if (c->phase == CONNECTING || c->phase == OPENING)
        opening--;
    if (c->phase != UNUSED && c->phase != CLOSED)
        close(c->fd);
    c->phase = CLOSED;
}

static bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* Write what waits: data frames first, then control frames, then what has become due meanwhile. */
static void flush(struct connection *c)
{
    for (;;) {
        if (c->out_left) {
            ssize_t n = send(c->fd, c->out, c->out_left, MSG_NOSIGNAL);
            if (n < 0) {
                if (would_block()) {
                    watch(c, true);
                    return;
                }
                c->out_left = c->reply_size = c->frames_to_send = 0; /* reading tells what happened */
                break;
            }
            c->out += n;
            c->out_left -= n;
        } else if (c->reply_size) {
            ssize_t n = send(c->fd, c->reply, c->reply_size, MSG_NOSIGNAL);
            if (n < 0) {
                if (would_block()) {
                    watch(c, true);
                    return;
                }
                c->reply_size = c->frames_to_send = 0;
                break;
            }
            memmove(c->reply, c->reply + n, c->reply_size - n);
            c->reply_size -= n;
        } else if (c->frames_to_send) {
            c->out = frames + starts[c->next_out];
            c->out_left = starts[c->next_out + c->frames_to_send] - starts[c->next_out];
            c->next_out = (c->next_out + c->frames_to_send) % in_flight;
            c->frames_to_send = 0;
        } else {
            break;
        }
    }
    watch(c, false);
}

static void reply(struct connection *c, unsigned opcode, const unsigned char *data, size_t length)
{
    if (c->reply_size + length + 14 <= sizeof c->reply)
        c->reply_size += put_frame(c->reply + c->reply_size, opcode, data, length);
}

static bool request(struct connection *c)
{
    static char text[512];
    int length = snprintf(text, sizeof text,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                          "Sec-WebSocket-Version: 13\r\n\r\n",
                          c->is_control ? control_path : path, port);
    if (send(c->fd, text, length, MSG_NOSIGNAL) != length)
        return false;
    c->phase = OPENING;
    return true;
}

static void begin(struct connection *c)
{
    bool is_control = c->is_control;
    unsigned index = c - connections;
    memset(c, 0, sizeof *c);
    c->is_control = is_control;
    c->began = now();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket: %s", strerror(errno));
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001 + index % SOURCES)};
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from))
        die("bind: %s", strerror(errno));
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    c->phase = CONNECTING;
    opening++;
    bool sent = request(c); /* over loopback the connection is usually there already */
    c->wants_write = !sent;
    struct epoll_event event = {.events = EPOLLIN | (sent ? 0 : EPOLLOUT), .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

/* -- what happens on a connection; a work gives these their meaning ---------------------------- */

static void on_open(struct connection *c);
static void on_message(struct connection *c);
static void on_close(struct connection *c);
static void on_end(struct connection *c);

static void close_frame(struct connection *c)
{
    unsigned got = c->control_size >= 2 ? c->control[0] << 8 | c->control[1] : 1005;
    unsigned length = c->control_size >= 2 ? c->control_size - 2 : 0;
    bool same = length == strlen(reason) && !memcmp(c->control + 2, reason, length);
    c->closes++;
    c->right_close = got == code && (same || (c->close_sent && !length));
    c->closed_at = now();
    if (!c->right_close) {
        char text[160];
        snprintf(text, sizeof text, "a Close frame with %u and \"%.*s\"", got, (int)length, c->control + 2);
        note_error(text);
    }
    if (!c->close_sent) {
        c->close_sent = true;
        reply(c, CLOSE, c->control, c->control_size >= 2 ? 2 : 0);
        flush(c);
    }
    on_close(c);
}

static void control_frame(struct connection *c)
{
    if (c->opcode == CLOSE) {
        close_frame(c);
    } else if (c->opcode == PING) {
        pings++;
        reply(c, PONG, c->control, c->control_size);
        flush(c);
    }
}

static bool take(struct connection *c, const unsigned char *data, size_t length)
{
    size_t at = 0;
    while (at < length || (c->in_payload && !c->left)) {
        if (!c->in_payload) {
            c->header[c->header_size++] = data[at++];
            if (c->header_size < 2)
                continue;
            unsigned short_length = c->header[1] & 0x7f;
            unsigned needed = short_length < 126 ? 2 : short_length == 126 ? 4 : 10;
            if (c->header_size < needed)
                continue;
            unsigned opcode = c->header[0] & 0x0f;
            c->final = c->header[0] & 0x80;
            c->left = short_length;
            if (needed > 2)
                c->left = 0;
            for (unsigned i = 2; i < needed; i++)
                c->left = c->left << 8 | c->header[i];
            c->header_size = 0;
            c->in_payload = true;
            c->opcode = opcode;
            if (c->closes) {
                note_error("a frame behind the Close frame");
                c->right_close = false;
            }
            if (c->header[1] & 0x80 || c->header[0] & 0x70) {
                note_error("a masked frame, or one with reserved bits");
                return false;
            }
            if (opcode >= CLOSE) {
                c->control_size = 0;
                if (c->left > 125) {
                    note_error("a control frame of more than 125 bytes");
                    return false;
                }
            } else if (opcode) {
                c->offset = 0;
                if (opcode != opcode_sent)
                    note_error("a message of another type than was sent");
            }
        }
        size_t part = length - at < c->left ? length - at : c->left;
        if (c->opcode >= CLOSE) {
            memcpy(c->control + c->control_size, data + at, part);
            c->control_size += part;
        } else if (part) {
            if (c->offset + part > size || memcmp(payload + c->offset, data + at, part)) {
                char text[160];
                snprintf(text, sizeof text, "not what was sent: \"%.*s\"", part > 60 ? 60 : (int)part, data + at);
                note_error(text);
                return false;
            }
            c->offset += part;
        }
        at += part;
        c->left -= part;
        if (c->left)
            return true;
        c->in_payload = false;
        if (c->opcode >= CLOSE) {
            control_frame(c);
        } else if (c->final) {
            if (c->offset != lengths[c->next_in])
                note_error("a message of another length than was sent");
            c->next_in = (c->next_in + 1) % in_flight;
            c->seen++;
            on_message(c);
        }
        if (c->phase != OPEN)
            return true;
    }
    return true;
}

static bool take_head(struct connection *c, const unsigned char *data, size_t length)
{
    size_t part = sizeof c->head - 1 - c->head_size;
    unsigned before = c->head_size;
    if (part > length)
        part = length;
    memcpy(c->head + c->head_size, data, part);
    c->head_size += part;
    c->head[c->head_size] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return c->head_size < sizeof c->head - 1;
    if (strncmp(c->head, "HTTP/1.1 101", 12) || !strstr(c->head, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")) {
        c->head[strcspn(c->head, "\r")] = 0;
        note_error(c->head);
        return false;
    }
    size_t used = end + 4 - c->head - before;
    c->phase = OPEN;
    opening--;
    opened++;
    on_open(c);
    return take(c, data + used, length - used);
}

static void readable(struct connection *c)
{
    ssize_t n = recv(c->fd, buffer, READ_SIZE, 0);
    if (n < 0 && would_block())
        return;
    if (n < 0) {
        note_error(strerror(errno));
        c->right_close = false;
    }
    if (n <= 0) {
        on_end(c);
        return;
    }
    last_progress = now();
    bool good = c->phase == OPENING ? take_head(c, buffer, n) : take(c, buffer, n);
    if (!good) {
        c->right_close = false;
        on_end(c);
    } else if (c->phase == OPEN && c->frames_to_send) {
        flush(c);
    }
}

static void turn(int timeout)
{
    static struct epoll_event events[512];
    int n = epoll_wait(epoll_fd, events, 512, timeout);
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (!c) /* stdin, see hold */
            continue;
        if (c->phase == CONNECTING) {
            if (events[i].events & (EPOLLERR | EPOLLHUP) || !request(c)) {
                note_error("the connection was refused");
                on_end(c);
            } else {
                watch(c, false);
            }
            continue;
        }
        if (events[i].events & EPOLLOUT)
            flush(c);
        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
            readable(c);
    }
}

/* -- reports ---------------------------------------------------------------------------------- */

static double window_began, window_cpu, window_server_cpu;
static uint64_t window_messages, window_clean, window_unclean;

static void open_window(void)
{
    window_messages = messages;
    window_clean = clean;
    window_unclean = unclean;
    window_cpu = own_cpu();
    window_server_cpu = server_cpu();
    window_began = now();
}

static void report_window(void)
{
    double took = now() - window_began;
    printf("{\"seconds\": %.6f, \"messages\": %llu, \"clean\": %llu, \"unclean\": %llu, \"cpu\": %.4f, "
           "\"server_cpu\": %.6f, \"errors\": %llu, \"error\": \"",
           took, (unsigned long long)(messages - window_messages), (unsigned long long)(clean - window_clean),
           (unsigned long long)(unclean - window_unclean), (own_cpu() - window_cpu) / took,
           server_cpu() - window_server_cpu, (unsigned long long)errors);
    for (const char *at = first_error; *at; at++)
        if (*at >= ' ' && *at < 127 && *at != '"' && *at != '\\')
            putchar(*at);
    printf("\"}\n");
    fflush(stdout);
}

static void check_progress(void)
{
    if (now() - last_progress > STALL_TIMEOUT)
        die("%s: nothing has happened for %.0f s; first error: %s", work, STALL_TIMEOUT,
            first_error[0] ? first_error : "none");
}

static void open_all(unsigned count)
{
    last_progress = now();
    while (opened < count) {
        while (started < count && opening < OPENING_AT_ONCE)
            begin(&connections[started++]);
        turn(1000);
        if (errors)
            die("%s: while connecting: %s", work, first_error);
        check_progress();
    }
}

/* -- the works -------------------------------------------------------------------------------- */

static bool is(const char *name)
{
    return !strcmp(work, name);
}

enum { ECHO, SERVER_CLOSE, CLIENT_CLOSE, PUBLISH, DRAIN, HOLD };
static int kind;
static bool cycling; /* closed connections are opened again */
static unsigned ended;

static bool cycles(void)
{
    return kind == SERVER_CLOSE || kind == CLIENT_CLOSE;
}

static void on_open(struct connection *c)
{
    if (cycles()) {
        c->frames_to_send = 1;
        flush(c);
    }
}

static void on_message(struct connection *c)
{
    messages++;
    if (kind == ECHO) {
        c->frames_to_send++;
    } else if (kind == CLIENT_CLOSE && !c->close_sent) {
        unsigned char data[125] = {code >> 8, code & 0xff};
        size_t length = strlen(reason);
        memcpy(data + 2, reason, length);
        c->close_sent = true;
        reply(c, CLOSE, data, 2 + length);
        flush(c);
    }
}

static void on_close(struct connection *c)
{
    if (kind == DRAIN && !c->is_control && c->closed_at > last_close)
        last_close = c->closed_at;
    else if (!cycles() && kind != DRAIN)
        note_error("the server closed a connection");
}

static void on_end(struct connection *c)
{
    bool was_clean = c->phase == OPEN && c->closes == 1 && c->right_close && !c->in_payload && !c->header_size;
    if (cycles())
        was_clean = was_clean && c->seen == 1;
    else if (kind != DRAIN)
        note_error("a connection ended");
    drop(c);
    if (c->is_control)
        return;
    if (was_clean)
        clean++;
    else
        unclean++;
    ended++;
    last_end = now();
    if (cycling)
        begin(c);
}

static void echo(void)
{
    open_all(wanted);
    for (unsigned i = 0; i < wanted; i++) {
        connections[i].frames_to_send = in_flight;
        flush(&connections[i]);
    }
    double until = now() + warmup;
    while (now() < until)
        turn(100), check_progress();
    open_window();
    until = now() + seconds;
    while (now() < until)
        turn(100), check_progress();
    report_window();
}

static void cycle(void)
{
    last_progress = now();
    cycling = true;
    for (unsigned i = 0; i < wanted; i++)
        begin(&connections[i]);
    double until = now() + warmup, look = now();
    bool measuring = false;
    for (;;) {
        turn(100);
        double t = now();
        if (t - look > 0.5) {
            look = t;
            for (unsigned i = 0; i < wanted; i++)
                if (t - connections[i].began > CYCLE_TIMEOUT) {
                    note_error("a cycle took too long");
                    connections[i].right_close = false;
                    on_end(&connections[i]);
                }
        }
        if (t < until)
            continue;
        if (measuring)
            break;
        measuring = true;
        open_window();
        until = t + seconds;
    }
    report_window();
}

static void publish(void)
{
    open_all(wanted);
    double until = now() + SETTLE;
    while (now() < until)
        turn(10);
    until = now() + warmup;
    bool measuring = false;
    last_progress = now();
    for (;;) {
        uint64_t goal = messages + wanted;
        connections[0].frames_to_send = 1;
        flush(&connections[0]);
        while (messages < goal)
            turn(100), check_progress();
        if (now() < until)
            continue;
        if (measuring)
            break;
        measuring = true;
        open_window();
        until = now() + seconds;
    }
    report_window();
}

static void drain(void)
{
    struct connection *control = &connections[wanted];
    control->is_control = true;
    open_all(wanted);
    begin(control);
    while (control->phase != OPEN)
        turn(100), check_progress();
    double until = now() + SETTLE;
    while (now() < until)
        turn(10);
    open_window();
    double go = now();
    reply(control, TEXT, (const unsigned char *)"go", 2);
    flush(control);
    last_progress = go;
    while (ended < wanted && now() - last_progress < STALL_TIMEOUT)
        turn(100);
    double cpu = own_cpu() - window_cpu;
    printf("{\"seconds\": %.6f, \"ended\": %.6f, \"total\": %u, \"clean\": %llu, \"cpu\": %.4f, "
           "\"server_cpu\": %.6f, \"errors\": %llu}\n",
           last_close ? last_close - go : -1, last_end ? last_end - go : -1, wanted, (unsigned long long)clean,
           cpu / (last_end > go ? last_end - go : 1), server_cpu() - window_server_cpu,
           (unsigned long long)errors);
}

static void hold(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);
    fcntl(0, F_SETFL, O_NONBLOCK);
    for (;;) {
        char line[64];
        ssize_t n = read(0, line, sizeof line - 1);
        if (!n)
            return;
        if (n > 0) {
            line[n] = 0;
            unsigned count = atoi(line);
            open_all(count < wanted ? count : wanted);
            printf("{\"open\": %u, \"ended\": %u, \"pings\": %llu, \"time\": %.6f, \"own_cpu\": %.6f, "
                   "\"server_cpu\": %.6f}\n",
                   opened, ended, (unsigned long long)pings, now(), own_cpu(), server_cpu());
            fflush(stdout);
        }
        turn(1000);
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, 0, 'p'},     {"path", 1, 0, 'a'},    {"connections", 1, 0, 'n'}, {"in-flight", 1, 0, 'k'},
        {"size", 1, 0, 's'},     {"binary", 0, 0, 'b'},  {"seconds", 1, 0, 't'},     {"warmup", 1, 0, 'w'},
        {"code", 1, 0, 'c'},     {"reason", 1, 0, 'r'},  {"pid", 1, 0, 'P'},         {"control", 1, 0, 'C'},
        {"shortest", 1, 0, 'm'}, {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 'p': port = atoi(optarg); break;
        case 'a': path = optarg; break;
        case 'n': wanted = atoi(optarg); break;
        case 'k': in_flight = atoi(optarg); break;
        case 's': size = atoi(optarg); break;
        case 'm': shortest = atoi(optarg); break;
        case 'b': opcode_sent = BINARY; break;
        case 't': seconds = atof(optarg); break;
        case 'w': warmup = atof(optarg); break;
        case 'c': code = atoi(optarg); break;
        case 'r': reason = optarg; break;
        case 'C': control_path = optarg; break;
        case 'P':
            if (pid_count == sizeof pids / sizeof *pids)
                die("too many --pid");
            pids[pid_count++] = atoi(optarg);
            break;
        default: return 2;
        }
    if (!shortest)
        shortest = size;
    if (optind != argc - 1 || shortest > size || !port || !wanted || !in_flight || !size || strlen(reason) > 123)
        die("usage: load WORK --port PORT ...; see the beginning of load.c");
    work = argv[optind];
    buffer = malloc(READ_SIZE);
    connections = calloc(wanted + 1, sizeof *connections);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    make_frames();
    if (is("echo"))
        kind = ECHO, echo();
    else if (is("server-close"))
        kind = SERVER_CLOSE, cycle();
    else if (is("client-close"))
        kind = CLIENT_CLOSE, cycle();
    else if (is("publish"))
        kind = PUBLISH, publish();
    else if (is("drain"))
        kind = DRAIN, drain();
    else if (is("hold"))
        kind = HOLD, hold();
    else
        die("no such work: %s", work);
    return 0;
}
