/* The limit of a chain of replicas: raw sockets that receive, send on, checksum and write, in C.
 *
 *   chain_limit serve <next port, 0 for none> <file> <congestion control>
 *       prints its port; serves one stream, then answers it with 4 bytes once the hops behind it have
 *   chain_limit send <port> <bytes> <congestion control>
 *       prints the seconds from the first byte to the answer
 *
 * The same work for each 256 KiB as a chunk server does, and nothing else: no protocol, no errors survived.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <nmmintrin.h>
#define HARDWARE __attribute__((target("sse4.2")))
#define CRC_STEP(crc, word) _mm_crc32_u64(crc, word)
#elif defined(__aarch64__)
#include <arm_acle.h>
#define HARDWARE __attribute__((target("+crc")))
#define CRC_STEP(crc, word) __crc32cd((uint32_t)(crc), word)
#endif

enum { WINDOW_BYTES = 256 << 10, BLOCK_BYTES = 64 << 10, PIECE_BYTES = 4 << 20, ANSWER_BYTES = 4 };
enum { LANE_BYTES = 21840 }; /* three lanes fill a block but for its last 16 bytes */

static void die(const char *what) { perror(what); exit(1); }

static uint32_t shift_table[4][256]; /* the CRC of a state followed by LANE_BYTES zeros, byte by byte */

static uint32_t shifted(uint32_t crc) {
    return shift_table[0][crc & 255] ^ shift_table[1][crc >> 8 & 255] ^ shift_table[2][crc >> 16 & 255] ^
           shift_table[3][crc >> 24];
}

static void make_shift_table(void) {
    for (int byte = 0; byte < 4; byte++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t crc = 1u << (8 * byte + bit);
            for (int zero = 0; zero < 8 * LANE_BYTES; zero++)
                crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
            shift_table[byte][1 << bit] = crc;
        }
    for (int byte = 0; byte < 4; byte++)
        for (int value = 1; value < 256; value++)
            shift_table[byte][value] =
                shift_table[byte][value & (value - 1)] ^ shift_table[byte][value & -value];
}

#ifdef HARDWARE
/* Three independent lanes hide the latency of the instruction: 2-3 times one lane. */
HARDWARE static uint32_t crc32c_block(const uint8_t *block) {
    const uint64_t *a = (const uint64_t *)block;
    const uint64_t *b = (const uint64_t *)(block + LANE_BYTES);
    const uint64_t *c = (const uint64_t *)(block + 2 * LANE_BYTES);
    uint64_t x = 0xffffffffu, y = 0, z = 0;
    for (int i = 0; i < LANE_BYTES / 8; i++) {
        x = CRC_STEP(x, a[i]);
        y = CRC_STEP(y, b[i]);
        z = CRC_STEP(z, c[i]);
    }
    uint64_t crc = shifted(shifted((uint32_t)x) ^ (uint32_t)y) ^ (uint32_t)z;
    for (int i = 3 * LANE_BYTES / 8; i < BLOCK_BYTES / 8; i++)
        crc = CRC_STEP(crc, ((const uint64_t *)block)[i]);
    return (uint32_t)crc ^ 0xffffffffu;
}
#else
static uint32_t crc32c_block(const uint8_t *block) {
    uint32_t crc = 0xffffffffu;
    for (int i = 0; i < BLOCK_BYTES; i++) {
        crc ^= block[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return crc ^ 0xffffffffu;
}
#endif

static int tcp_socket(const char *congestion_control) {
    int on = 1, made = socket(AF_INET, SOCK_STREAM, 0);
    if (made < 0) die("socket");
    setsockopt(made, IPPROTO_TCP, TCP_CONGESTION, congestion_control, strlen(congestion_control));
    setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return made;
}

static int dial(int port, const char *congestion_control) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int made = tcp_socket(congestion_control);
    if (connect(made, (struct sockaddr *)&to, sizeof to)) die("connect");
    return made;
}

static void send_all(int to, const uint8_t *bytes, size_t count) {
    while (count) {
        ssize_t sent = send(to, bytes, count, MSG_NOSIGNAL);
        if (sent <= 0) die("send");
        bytes += sent;
        count -= (size_t)sent;
    }
}

static void serve(int next_port, const char *path, const char *congestion_control) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = tcp_socket(congestion_control);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1)) die("listen");
    getsockname(listener, (struct sockaddr *)&at, &length);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    int from = accept(listener, NULL, NULL);
    if (from < 0) die("accept");
    int to = next_port ? dial(next_port, congestion_control) : -1;
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (file < 0) die(path);

    uint8_t *window = mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (window == MAP_FAILED) die("mmap");
    uint32_t sum = 0;
    off_t written = 0;
    size_t have = 0, summed = 0;
    ssize_t got;
    while ((got = recv(from, window + have, WINDOW_BYTES - have, 0)) > 0) {
        if (to >= 0) send_all(to, window + have, (size_t)got);
        have += (size_t)got;
        for (; summed + BLOCK_BYTES <= have; summed += BLOCK_BYTES)
            sum ^= crc32c_block(window + summed);
        if (have < WINDOW_BYTES) continue;
        if (pwrite(file, window, have, written) != (ssize_t)have) die("pwrite");
        written += (off_t)have;
        have = summed = 0;
    }
    if (got < 0) die("recv");
    if (have && pwrite(file, window, have, written) != (ssize_t)have) die("pwrite");
    uint32_t behind;
    if (to >= 0) {
        shutdown(to, SHUT_WR);
        if (recv(to, &behind, ANSWER_BYTES, MSG_WAITALL) != ANSWER_BYTES || behind != sum) die("other sums behind");
    }
    send_all(from, (uint8_t *)&sum, ANSWER_BYTES);
}

static void send_stream(int port, long bytes, const char *congestion_control) {
    uint8_t *piece = malloc(PIECE_BYTES);
    uint32_t sum;
    struct timespec start, end;
    for (int i = 0; i < PIECE_BYTES; i++) piece[i] = (uint8_t)(i * 2654435761u >> 24);
    int to = dial(port, congestion_control);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long left = bytes; left > 0; left -= PIECE_BYTES)
        send_all(to, piece, (size_t)(left < PIECE_BYTES ? left : PIECE_BYTES));
    shutdown(to, SHUT_WR);
    if (recv(to, &sum, ANSWER_BYTES, MSG_WAITALL) != ANSWER_BYTES) die("no answer");
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.6f\n", (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec));
}

int main(int count, char **words) {
    make_shift_table();
    if (count == 3 && !strcmp(words[1], "sum")) { /* one block of the byte given: lets a test check the sums */
        static uint8_t block[BLOCK_BYTES];
        for (int i = 0; i < BLOCK_BYTES; i++) block[i] = (uint8_t)(atoi(words[2]) + i);
        printf("%08x\n", crc32c_block(block));
    } else if (count == 5 && !strcmp(words[1], "serve")) {
        serve(atoi(words[2]), words[3], words[4]);
    } else if (count == 5 && !strcmp(words[1], "send")) {
        send_stream(atoi(words[2]), atol(words[3]), words[4]);
    } else {
        fprintf(stderr, "see the comment at the top of chain_limit.c\n");
        return 2;
    }
    return 0;
}
