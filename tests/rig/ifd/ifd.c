/* A reader driver for tests: vsmartcard's libifdvpcd, and what that one lacks.
 *
 * Promises: one slot; a card that comes or goes is noticed within about 10 ms, and one that takes
 * another's place is always two; calls never overlap; the reader can be unplugged and plugged in
 * again; escape commands are written down and answered. Not for use with real cards.
 *
 * DEVICENAME in reader.conf is FOLDER:PORT. PORT is where libifdvpcd listens for the card. FOLDER
 * holds `libifdvpcd.so`, a copy for this entry alone, and these, each looked at whenever it matters:
 *
 *   unplugged     while it exists the reader is gone: no call succeeds. (pcscd goes on listing it,
 *                 as unavailable: it takes readers off its list only where USB tells it to.)
 *   escapes       escape commands that came, one line of lower-case hex each
 *   escape-delay  holds a number: each escape command takes so many milliseconds
 *   escape-fails  while it exists each escape command is written down and fails
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <ifdhandler.h>
#include <limits.h>
#include <pthread.h>
#include <reader.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_EVERY_MS = 10 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static atomic_int woken;

/* pcscd's thread that waits for cards at this reader, what it was told last, and whether it was
 * told of a card since it last waited. Other threads of pcscd ask as well and decide nothing.
 */
static pthread_t watcher;
static RESPONSECODE told;
static int told_of_card;

/* A card has left, and the watcher may not know yet: until it does, no other card is let in. */
static int left;

static struct {
	void *library;
	RESPONSECODE (*create)(DWORD, LPSTR);
	RESPONSECODE (*close)(DWORD);
	RESPONSECODE (*get)(DWORD, DWORD, PDWORD, PUCHAR);
	RESPONSECODE (*power)(DWORD, DWORD, PUCHAR, PDWORD);
	RESPONSECODE (*transmit)(DWORD, SCARD_IO_HEADER, PUCHAR, DWORD, PUCHAR, PDWORD,
				 PSCARD_IO_HEADER);
	RESPONSECODE (*control)(DWORD, DWORD, PUCHAR, DWORD, PUCHAR, DWORD, LPDWORD);
	RESPONSECODE (*presence)(DWORD);
} vpcd;

static FILE *open_file(const char *name, const char *mode)
{
	char path[PATH_MAX + 32];

	snprintf(path, sizeof path, "%s/%s", folder, name);
	return fopen(path, mode);
}

static int exists(const char *name)
{
	char path[PATH_MAX + 32];

	snprintf(path, sizeof path, "%s/%s", folder, name);
	return access(path, F_OK) == 0;
}

static int unplugged(void)
{
	return exists("unplugged");
}

static void pause_ms(long ms)
{
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&time, NULL);
}

static long now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Not IFD_NO_SUCH_DEVICE: at that, pcscd signals whatever process /run/pcscd/pcscd.pid names. */
static RESPONSECODE look(DWORD lun)
{
	RESPONSECODE state;

	if (unplugged())
		return IFD_COMMUNICATION_ERROR;
	if (left)
		return IFD_ICC_NOT_PRESENT;
	state = vpcd.presence(lun);
	left = state == IFD_ICC_NOT_PRESENT && told == IFD_ICC_PRESENT;
	return state;
}

/* libifdvpcd drops the card when a call fails; its next look may already show another card. */
static RESPONSECODE after(RESPONSECODE result, int answered)
{
	if (unplugged())
		return IFD_COMMUNICATION_ERROR;
	if ((result != IFD_SUCCESS || !answered) && told == IFD_ICC_PRESENT)
		left = 1;
	return result;
}

/* The watcher waits here for a change, at most `timeout_ms`, or until it is woken: pcscd does that
 * whenever it wants to wait for another while, or to stop.
 *
 * Between two waits the watcher asks once what is there and, where it powers the card up or down,
 * once more before that, without drawing conclusions from that answer. So only if all answers since
 * the last wait were the same does it know.
 */
static RESPONSECODE wait_for_change(DWORD lun, int timeout_ms)
{
	long end = now_ms() + timeout_ms;
	int changed;

	pthread_mutex_lock(&lock);
	watcher = pthread_self();
	changed = left && told_of_card;
	if (!changed)
		left = 0;
	told_of_card = 0;
	pthread_mutex_unlock(&lock);
	while (!changed && !atomic_exchange(&woken, 0)) {
		pthread_mutex_lock(&lock);
		changed = look(lun) != told;
		pthread_mutex_unlock(&lock);
		if (now_ms() >= end)
			break;
		if (!changed)
			pause_ms(LOOK_EVERY_MS);
	}
	return IFD_SUCCESS;
}

static RESPONSECODE wake(DWORD lun)
{
	(void)lun;
	atomic_store(&woken, 1);
	return IFD_SUCCESS;
}

static void *symbol(const char *name)
{
	void *found = dlsym(vpcd.library, name);

	if (!found)
		fprintf(stderr, "ifd: %s\n", dlerror());
	return found;
}

static int load(void)
{
	char path[PATH_MAX + 32];

	snprintf(path, sizeof path, "%s/libifdvpcd.so", folder);
	/* DEEPBIND: its own calls among these names must reach itself and not us. */
	vpcd.library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
	if (!vpcd.library) {
		fprintf(stderr, "ifd: %s\n", dlerror());
		return 0;
	}
	vpcd.create = symbol("IFDHCreateChannelByName");
	vpcd.close = symbol("IFDHCloseChannel");
	vpcd.get = symbol("IFDHGetCapabilities");
	vpcd.power = symbol("IFDHPowerICC");
	vpcd.transmit = symbol("IFDHTransmitToICC");
	vpcd.control = symbol("IFDHControl");
	vpcd.presence = symbol("IFDHICCPresence");
	return vpcd.create && vpcd.close && vpcd.get && vpcd.power && vpcd.transmit &&
	       vpcd.control && vpcd.presence;
}

RESPONSECODE IFDHCreateChannelByName(DWORD lun, LPSTR device)
{
	char address[64];
	const char *port = strrchr(device, ':');

	if (!port || (size_t)(port - device) >= sizeof folder)
		return IFD_COMMUNICATION_ERROR;
	memcpy(folder, device, port - device);
	folder[port - device] = '\0';
	if (unplugged())
		return IFD_COMMUNICATION_ERROR;
	if (!load())
		return IFD_COMMUNICATION_ERROR;
	told = IFD_ICC_NOT_PRESENT;
	told_of_card = left = 0;
	snprintf(address, sizeof address, "/dev/null%s", port);
	return vpcd.create(lun, address);
}

RESPONSECODE IFDHCreateChannel(DWORD lun, DWORD channel)
{
	(void)lun;
	(void)channel;
	return IFD_NOT_SUPPORTED;
}

RESPONSECODE IFDHCloseChannel(DWORD lun)
{
	RESPONSECODE result;

	pthread_mutex_lock(&lock);
	result = vpcd.close(lun);
	dlclose(vpcd.library);
	pthread_mutex_unlock(&lock);
	return result;
}

static RESPONSECODE give(PDWORD length, PUCHAR value, const void *what, DWORD size)
{
	if (*length < size)
		return IFD_ERROR_INSUFFICIENT_BUFFER;
	memcpy(value, what, size);
	*length = size;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHGetCapabilities(DWORD lun, DWORD tag, PDWORD length, PUCHAR value)
{
	static const UCHAR one = 1;
	static RESPONSECODE (*const waiting)(DWORD, int) = wait_for_change;
	static RESPONSECODE (*const stop)(DWORD) = wake;
	RESPONSECODE result;

	switch (tag) {
	case TAG_IFD_SLOTS_NUMBER:
		return give(length, value, &one, sizeof one);
	case TAG_IFD_POLLING_THREAD_WITH_TIMEOUT:
		return give(length, value, &waiting, sizeof waiting);
	case TAG_IFD_STOP_POLLING_THREAD:
		return give(length, value, &stop, sizeof stop);
	}
	if (unplugged())
		return IFD_COMMUNICATION_ERROR;
	pthread_mutex_lock(&lock);
	result = vpcd.get(lun, tag, length, value);
	pthread_mutex_unlock(&lock);
	return result;
}

RESPONSECODE IFDHSetCapabilities(DWORD lun, DWORD tag, DWORD length, PUCHAR value)
{
	(void)lun;
	(void)tag;
	(void)length;
	(void)value;
	return IFD_NOT_SUPPORTED;
}

RESPONSECODE IFDHSetProtocolParameters(DWORD lun, DWORD protocol, UCHAR flags, UCHAR pts1,
				       UCHAR pts2, UCHAR pts3)
{
	(void)lun;
	(void)protocol;
	(void)flags;
	(void)pts1;
	(void)pts2;
	(void)pts3;
	return unplugged() ? IFD_COMMUNICATION_ERROR : IFD_SUCCESS;
}

RESPONSECODE IFDHPowerICC(DWORD lun, DWORD action, PUCHAR atr, PDWORD atr_length)
{
	RESPONSECODE result;

	if (unplugged())
		return IFD_COMMUNICATION_ERROR;
	pthread_mutex_lock(&lock);
	result = after(vpcd.power(lun, action, atr, atr_length), 1);
	pthread_mutex_unlock(&lock);
	return result;
}

RESPONSECODE IFDHTransmitToICC(DWORD lun, SCARD_IO_HEADER send, PUCHAR command, DWORD command_length,
			       PUCHAR answer, PDWORD answer_length, PSCARD_IO_HEADER received)
{
	RESPONSECODE result;

	if (unplugged()) {
		*answer_length = 0;
		return IFD_COMMUNICATION_ERROR;
	}
	pthread_mutex_lock(&lock);
	/* A card that is pulled in the middle is success to libifdvpcd, without an answer. */
	result = vpcd.transmit(lun, send, command, command_length, answer, answer_length, received);
	result = after(result, *answer_length != 0);
	pthread_mutex_unlock(&lock);
	return result;
}

static RESPONSECODE escape(PUCHAR command, DWORD length, PUCHAR answer, DWORD room, LPDWORD given)
{
	static const UCHAR done[] = {0x90, 0x00};
	FILE *file = open_file("escapes", "a");
	long delay_ms = 0;

	if (!file)
		return IFD_COMMUNICATION_ERROR;
	for (DWORD n = 0; n < length; n++)
		fprintf(file, "%02x", command[n]);
	fputc('\n', file);
	fclose(file);
	file = open_file("escape-delay", "r");
	if (file) {
		if (fscanf(file, "%ld", &delay_ms) == 1)
			pause_ms(delay_ms);
		fclose(file);
	}
	if (exists("escape-fails"))
		return IFD_COMMUNICATION_ERROR;
	*given = room;
	return give(given, answer, done, sizeof done);
}

RESPONSECODE IFDHControl(DWORD lun, DWORD code, PUCHAR command, DWORD length, PUCHAR answer,
			 DWORD room, LPDWORD given)
{
	RESPONSECODE result;

	*given = 0;
	if (unplugged())
		return IFD_COMMUNICATION_ERROR;
	/* What libccid takes for an escape command: its own code, and that of Windows' driver. */
	if (code == SCARD_CTL_CODE(1) || code == SCARD_CTL_CODE(3500))
		return escape(command, length, answer, room, given);
	pthread_mutex_lock(&lock);
	result = vpcd.control(lun, code, command, length, answer, room, given);
	pthread_mutex_unlock(&lock);
	return result;
}

RESPONSECODE IFDHICCPresence(DWORD lun)
{
	RESPONSECODE state;

	pthread_mutex_lock(&lock);
	state = look(lun);
	if (pthread_equal(watcher, pthread_self())) {
		told = state;
		told_of_card |= state == IFD_ICC_PRESENT;
	}
	pthread_mutex_unlock(&lock);
	return state;
}
