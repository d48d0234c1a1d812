/*
 * driver asks the real libwrap, many times in one process, without letting it
 * touch anything: files come from memory, and whatever it would do to this
 * process or start as another is written down instead.
 *
 * It is linked with libwrap.a and --wrap for each function named __wrap_* here.
 * The protocol is on standard input and output. A string is its length in four
 * bytes, least significant first, and its bytes. A command is a byte:
 *
 *   C          forget all files
 *   F name state text   a file: state r(eadable), m(issing), d(irectory), u(nreadable)
 *   Q ...      a request, see ask; the answer is events and a final E
 *   B n        the same request n times, for timing; the answer is nanoseconds in decimal
 *
 * An event is a byte and a string.
 */
#define _GNU_SOURCE
#define INET6 1
#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <net/if.h>
#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <tcpd.h>

/* What libwrap wants its caller to define. The last two keep rfc931.o out. */
int allow_severity, deny_severity, rfc931_timeout;
extern int aclexec_matched, dry_run;

static jmp_buf gone; /* where to go on when libwrap would end the process */

static void get(void *p, size_t n)
{
    if (fread(p, 1, n, stdin) != n)
        _exit(feof(stdin) ? 0 : 1);
}

static uint32_t get_number(void)
{
    unsigned char b[4];
    get(b, 4);
    return b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24;
}

static char *get_string(uint32_t *length)
{
    uint32_t n = get_number();
    char *s = malloc(n + 1);
    get(s, n);
    s[n] = 0;
    if (length)
        *length = n;
    return s;
}

static void event_bytes(char kind, const char *s, size_t n)
{
    unsigned char b[5] = {kind, n, n >> 8, n >> 16, n >> 24};
    fwrite(b, 1, 5, stdout);
    fwrite(s, 1, n, stdout);
}

static void event(char kind, const char *format, ...)
{
    char s[16384];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(s, sizeof s, format, ap);
    va_end(ap);
    event_bytes(kind, s, n < (int)sizeof s ? n : (int)sizeof s - 1);
}

/* Files, by name. */

struct file { char *name, *text; uint32_t length; char state; };
static struct file files[32];
static int nfiles;
static int real_files; /* B times the real thing */

FILE *__real_fopen(const char *, const char *);
FILE *__wrap_fopen(const char *name, const char *mode)
{
    if (real_files)
        return __real_fopen(name, mode);
    for (int i = 0; i < nfiles; i++) {
        struct file *f = &files[i];
        if (strcmp(f->name, name) != 0)
            continue;
        switch (f->state) {
        case 'r':
            return fmemopen(f->length ? f->text : "", f->length, "r");
        case 'd':
            return __real_fopen("/", "r");
        case 'u':
            errno = EACCES;
            return NULL;
        }
    }
    errno = ENOENT;
    return NULL;
}

int __wrap_stat(const char *name, struct stat *st)
{
    errno = ENOENT;
    return -1;
}

/* What libwrap says. */

static void say(int priority, const char *format, va_list ap)
{
    char s[16384];
    vsnprintf(s, sizeof s, format, ap);
    event('L', "%s", s);
}

void __wrap___syslog_chk(int priority, int flag, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    say(priority, format, ap);
    va_end(ap);
}

void __wrap___vsyslog_chk(int priority, int flag, const char *format, va_list ap) { say(priority, format, ap); }

/* What libwrap does. */

void __wrap_shell_cmd(char *command) { event('s', "%s", command); }

static int aclexec_status;
static int forked;
pid_t __wrap_fork(void) { return forked = 12345; }
pid_t __wrap_wait(int *status)
{
    *status = aclexec_status;
    return forked;
}

static int closed;
int __wrap_close(int fd) { closed = fd; return 0; }
int __wrap_dup(int fd) { return closed; }
int __wrap_execl(const char *path, const char *arg, ...)
{
    va_list ap;
    va_start(ap, arg);
    va_arg(ap, char *);
    event('t', "%s", va_arg(ap, char *));
    va_end(ap);
    longjmp(gone, 2);
}

unsigned __wrap_sleep(unsigned n) { return 0; }
void __wrap_exit(int status) { longjmp(gone, 3); }
void __wrap_clean_exit(struct request_info *r) { longjmp(gone, 3); }

mode_t __wrap_umask(mode_t m) { event('u', "%d", m); return 022; }
int __wrap_nice(int n) { event('n', "%d", n); return 0; }
int __wrap_setenv(const char *name, const char *value, int overwrite)
{
    if (name == NULL || *name == 0 || strchr(name, '=') != NULL) {
        errno = EINVAL;
        return -1;
    }
    event('e', "%s=%s", name, value);
    return 0;
}
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t n)
{
    if (option == SO_KEEPALIVE)
        event('k', "");
    else
        event('l', "%d", ((const struct linger *)value)->l_linger);
    return 0;
}
ssize_t __wrap_write(int fd, const void *p, size_t n)
{
    event_bytes('b', p, n);
    return n;
}

/* Debian's libwrap changes the user in dry runs only. */
int __wrap_setuid(uid_t u) { event('!', "setuid"); return 0; }
int __wrap_setgid(gid_t g) { event('!', "setgid"); return 0; }
int __wrap_setgroups(size_t n, const gid_t *g) { event('!', "setgroups"); return 0; }
int __wrap_initgroups(const char *u, gid_t g) { event('!', "initgroups"); return 0; }

static int known(const char *name) { return strcmp(name, "root") == 0 || strcmp(name, "nobody") == 0; }
struct passwd *__wrap_getpwnam(const char *name)
{
    static struct passwd p;
    return known(name) ? &p : NULL;
}
struct group *__wrap_getgrnam(const char *name)
{
    static struct group g;
    return known(name) ? &g : NULL;
}

/* What libwrap asks. */

int __wrap_innetgr(const char *group, const char *host, const char *user, const char *domain)
{
    int good = strcmp(host, "good.example.com") == 0;
    return strcmp(group, "trusted") == 0 && (good || strcmp(host, "unknown") == 0) || strcmp(group, "friends") == 0 && good;
}
int __wrap_yp_get_default_domain(char **domain) { *domain = NULL; return 1; }

static char *ident;
void rfc931(struct sockaddr *client, struct sockaddr *server, char *user)
{
    event('i', "%d", rfc931_timeout);
    if (*ident)
        STRN_CPY(user, ident, STRING_LENGTH);
}

static char *client_lookup, *server_lookup;
static void look_up(struct host_info *host)
{
    char *name = host == host->request->client ? client_lookup : server_lookup;
    if (host->sin && *name)
        STRN_CPY(host->name, name, STRING_LENGTH);
}

/*
 * socket_address reads an address: its port, and 4 or 16 bytes with a scope.
 * 0 if there is none.
 */
static struct sockaddr *socket_address(struct sockaddr_storage *ss)
{
    uint32_t n, port = get_number();
    char *bytes = get_string(&n), *scope = get_string(NULL);
    struct sockaddr *sa = NULL;
    memset(ss, 0, sizeof *ss);
    if (n == 4) {
        struct sockaddr_in *sin = (struct sockaddr_in *)ss;
        sin->sin_family = AF_INET;
        memcpy(&sin->sin_addr, bytes, n);
        sin->sin_port = htons(port);
        sa = (struct sockaddr *)ss;
    } else if (n == 16) {
        struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)ss;
        sin6->sin6_family = AF_INET6;
        memcpy(&sin6->sin6_addr, bytes, n);
        sin6->sin6_port = htons(port);
        sin6->sin6_scope_id = *scope ? if_nametoindex(scope) : 0;
        if (*scope && sin6->sin6_scope_id == 0)
            sin6->sin6_scope_id = atoi(scope);
        sa = (struct sockaddr *)ss;
    }
    free(bytes);
    free(scope);
    return sa;
}

static struct request_info request;
static struct sockaddr_storage client_sin, server_sin;
static char *strings[9];
static uint32_t pid, datagram;

static void sink(int fd) {}

/* prepare makes the request anew, since libwrap writes into it. */
static void prepare(struct sockaddr *client, struct sockaddr *server)
{
    request_init(&request, RQ_FILE, 77, RQ_CLIENT_SIN, client, RQ_SERVER_SIN, server, 0);
    if (*strings[0])
        request_set(&request, RQ_DAEMON, strings[0], 0);
    request_set(&request, RQ_CLIENT_ADDR, strings[1], RQ_CLIENT_NAME, strings[2], RQ_USER, strings[3],
        RQ_SERVER_ADDR, strings[4], RQ_SERVER_NAME, strings[5], 0);
    snprintf(request.pid, sizeof request.pid, "%u", pid);
    request.hostname = look_up;
    if (client && !*strings[1])
        sock_hostaddr(request.client);
    if (server && !*strings[4])
        sock_hostaddr(request.server);
    request.sink = datagram ? sink : 0;
}

/*
 * ask: daemon, client address, client name, user, server address, server name,
 * name that looking up the client gives, the same for the server, user that
 * ident gives; client and server socket; pid, datagram, wait status of
 * aclexec, resident, aclexec_matched.
 */
static void read_request(struct sockaddr **client, struct sockaddr **server)
{
    for (int i = 0; i < 9; i++) {
        free(strings[i]);
        strings[i] = get_string(NULL);
    }
    client_lookup = strings[6], server_lookup = strings[7], ident = strings[8];
    *client = socket_address(&client_sin);
    *server = socket_address(&server_sin);
    pid = get_number();
    datagram = get_number();
    aclexec_status = get_number();
    resident = (int)get_number() - 1;
    aclexec_matched = get_number();
    dry_run = 0;
    allow_severity = deny_severity = -1;
    rfc931_timeout = 0;
    tcpd_context.file = 0;
    tcpd_context.line = 0;
}

static void ask(void)
{
    struct sockaddr *client, *server;
    read_request(&client, &server);
    prepare(client, server);
    hosts_access_verbose = 2;
    int verdict = setjmp(gone);
    if (verdict == 0)
        verdict = hosts_access(&request);
    event('v', "%d %d", allow_severity, aclexec_matched);
    event('E', "%d", verdict);
    fflush(stdout);
}

/* measure times hosts_access as a program would call it, with files on disk. */
static void measure(void)
{
    struct sockaddr *client, *server;
    struct timespec a, b;
    uint32_t n = get_number();
    int granted = 0;
    read_request(&client, &server);
    hosts_access_verbose = 0;
    real_files = 1;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (uint32_t i = 0; i < n; i++) {
        prepare(client, server);
        granted += hosts_access(&request);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    real_files = 0;
    event('T', "%lld", (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec);
    event('E', "%d", granted);
    fflush(stdout);
}

static void add_file(void)
{
    struct file *f = &files[nfiles++];
    f->name = get_string(NULL);
    f->state = getchar();
    f->text = get_string(&f->length);
}

static void forget_files(void)
{
    while (nfiles > 0) {
        free(files[--nfiles].name);
        free(files[nfiles].text);
    }
}

int main(int argc, char **argv)
{
    hosts_allow_table = argc > 1 ? argv[1] : "hosts.allow";
    hosts_deny_table = argc > 2 ? argv[2] : "hosts.deny";
    for (;;) {
        switch (getchar()) {
        case EOF:
            return 0;
        case 'C':
            forget_files();
            break;
        case 'F':
            add_file();
            break;
        case 'Q':
            ask();
            break;
        case 'B':
            measure();
            break;
        default:
            return 1;
        }
    }
}
