/*
 * Debian's tcpdmatch and tcpdchk mean to print what libwrap logs, but intercept
 * functions that libwrap, built with _FORTIFY_SOURCE, doesn't call. This
 * library, preloaded, gives them their output back.
 */
#include <stdarg.h>
#include <stdio.h>

void vsyslog(int priority, const char *format, va_list args)
{
	vprintf(format, args);
	putchar('\n');
	fflush(stdout);
}

void __vsyslog_chk(int priority, int flag, const char *format, va_list args)
{
	vsyslog(priority, format, args);
}

void syslog(int priority, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsyslog(priority, format, args);
	va_end(args);
}

void __syslog_chk(int priority, int flag, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsyslog(priority, format, args);
	va_end(args);
}
