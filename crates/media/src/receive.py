"""The receiver of media-sync, for Synapse's own image, which has Python but none of these programs.

Exchanges the frames of crates/media/src/frame.rs on standard input and output, by the same rules as receive.rs.
Run as: python3 -c 'import sys; b = sys.stdin.buffer; exec(b.read(int(b.readline())))' DIR. Standard input is a line
with the length of this script, this script, and then the frames.
"""

import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
import struct
import sys
import threading
import zlib

MAGIC = "ess-media/1"
OURS = ".media-sync"
CHUNK = 256 << 10
LIMIT = 1 << 20
IDLE = 300
LANES = 64
BYE, ALIVE = 11, 12
KINDS = {
    "local_content": (3,),
    "local_thumbnails": (4,),
    "remote_content": (4,),
    "remote_thumbnail": (5,),
    "url_cache": (2, 3),
    "url_cache_thumbnails": (3, 4),
}
COMPONENT = re.compile(r"[A-Za-z0-9_.\[\]:-]+")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
IN_ITS_WAY = {
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
}

# The exit statuses of crates/stop/src/lib.rs.
DATA, UNAVAILABLE, IO, BUSY, PERMISSION = 65, 69, 74, 75, 77


class Stop(Exception):
    def __init__(self, exit, why):
        super().__init__(why)
        self.exit = exit


def is_component(part):
    return bool(COMPONENT.fullmatch(part)) and part not in (".", "..")


def is_place(kind, parts):
    """Whether the path is one that Synapse uses for a file."""
    if len(parts) not in KINDS.get(kind, ()) or not all(map(is_component, parts)):
        return False
    if kind.startswith("remote_"):
        parts = parts[1:]
    if kind.endswith(("thumbnails", "thumbnail")):
        parts = parts[:-1]
    if len(parts) == 2:
        return bool(DATE.fullmatch(parts[0]))
    return len(parts) == 3 and len(parts[0]) == len(parts[1]) == 2


def is_directory(kind, parts):
    return any(is_place(kind, parts + ["00"] * more) for more in range(1, 5))


def check(path):
    parts = path.split("/")
    if not is_place(parts[0], parts[1:]):
        raise Stop(DATA, "the sender sent a path that Synapse never creates: %r" % path)
    return parts


class Body:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise Stop(IO, "the stream is broken: a frame is too short")
        self.at += size
        return self.data[self.at - size : self.at]

    def unpack(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def text(self):
        (size,) = self.unpack("I")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise Stop(IO, "the stream is broken: a name is not UTF-8") from None


def text(value):
    value = value.encode("utf-8", "replace")[:60000]
    return struct.pack("<I", len(value)) + value


class Receiver:
    def __init__(self, path, stdin, stdout):
        self.path, self.stdin, self.stdout = path, stdin, stdout
        self.root = self.staging = self.owner = None
        self.is_ours = False
        self.lanes = {}
        self.units = None
        self.credit = 0
        self.idle = IDLE
        self.over = threading.Event()
        self.alive = threading.Thread(target=self.keep_alive, daemon=True)
        signal.signal(signal.SIGALRM, self.give_up)

    def give_up(self, *_):
        raise Stop(UNAVAILABLE, "the sender has sent nothing for %d s" % self.idle)

    def keep_alive(self):
        """Sends keep-alives, whatever else takes long."""
        try:
            while not self.over.wait(self.idle / 4):
                self.say(ALIVE)
                self.stdout.flush()
        except OSError:
            # The next answer fails with the same error, and reports it.
            pass

    def say(self, kind, body=b""):
        body = bytes([kind]) + body
        # In a single write, because two threads write.
        self.stdout.write(struct.pack("<II", len(body), zlib.crc32(body)) + body)

    def read(self):
        """The next frame's body; None at the end of the stream."""
        signal.alarm(self.idle)
        try:
            return self.read_frame()
        finally:
            signal.alarm(0)

    def read_frame(self):
        start = self.stdin.read(8)
        if not start:
            return None
        if len(start) < 8:
            raise Stop(IO, "the stream is broken: it ends within a frame")
        size, crc = struct.unpack("<II", start)
        if not 0 < size <= LIMIT:
            raise Stop(IO, "the stream is broken: it contains something other than frames")
        body = self.stdin.read(size)
        if len(body) < size:
            raise Stop(IO, "the stream is broken: it ends within a frame")
        if zlib.crc32(body) != crc:
            raise Stop(IO, "the stream is broken: a frame is damaged")
        return body

    # The copy on disk.

    def make(self, at, name, owner):
        try:
            os.mkdir(name, 0o700, dir_fd=at)
            made = True
        except FileExistsError:
            made = False
        directory = os.open(name, DIRECTORY, dir_fd=at)
        if made and owner:
            os.fchown(directory, *owner)
        return directory

    def open(self):
        try:
            os.mkdir(self.path, 0o700)
            made = True
        except FileExistsError:
            made = False
        self.root = os.open(self.path, DIRECTORY)
        if made and self.owner:
            os.fchown(self.root, *self.owner)
        mode = os.fstat(self.root).st_mode
        if mode & 0o007:
            # The mode with which Synapse creates it: in its pod there are no other users.
            os.fchmod(self.root, mode & 0o2770)
        self.staging = self.make(self.root, OURS, None)
        lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.staging)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 1000).decode("utf-8", "replace").strip() or "another run"
            raise Stop(BUSY, "%s holds the lock %s/%s/lock" % (holder, self.path, OURS)) from None
        self.is_ours = True
        os.ftruncate(lock, 0)
        os.write(lock, b"media-sync (process %d)\n" % os.getpid())
        self.sweep()

    def sweep(self):
        if self.is_ours:
            for name in os.listdir(self.staging):
                if name[0].isdigit():
                    os.unlink(name, dir_fd=self.staging)

    def parent(self, parts, may_make):
        """Opens the directory of a path, component by component, so that no link is followed."""
        at = os.dup(self.root)
        try:
            for part in parts[:-1]:
                try:
                    below = os.open(part, DIRECTORY, dir_fd=at)
                except FileNotFoundError:
                    if not may_make:
                        raise
                    below = self.make(at, part, self.owner)
                os.close(at)
                at = below
        except BaseException:
            os.close(at)
            raise
        return at

    def with_parent(self, parts, may_make, act):
        at = self.parent(parts, may_make)
        try:
            return act(at)
        finally:
            os.close(at)

    def open_file(self, parts):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return self.with_parent(parts, False, lambda at: os.open(parts[-1], flags, dir_fd=at))

    def place(self, lane):
        descriptor, parts, seconds, nanoseconds = self.lanes[lane][:4]
        os.utime(descriptor, ns=(os.fstat(descriptor).st_atime_ns, seconds * 10**9 + nanoseconds))
        if self.owner:
            os.fchown(descriptor, *self.owner)
        name = str(lane)
        self.with_parent(parts, True, lambda at: os.rename(name, parts[-1], src_dir_fd=self.staging, dst_dir_fd=at))

    def forget(self, lane):
        if lane in self.lanes:
            os.close(self.lanes.pop(lane)[0])
        try:
            os.unlink(str(lane), dir_fd=self.staging)
        except FileNotFoundError:
            pass

    # Listing the copy.

    def walk(self, kinds):
        """Units in the order of their paths: a path, and its files."""
        for kind in sorted(kind for kind in kinds if kind in KINDS):
            for name in self.directories([kind]):
                if kind.startswith("remote_"):
                    for part in self.directories([kind, name]):
                        yield self.unit([kind, name, part])
                else:
                    yield self.unit([kind, name])

    def entries(self, parts):
        try:
            directory = self.parent(parts + [""], False)
        except OSError:
            return
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    place = parts[1:] + [entry.name]
                    try:
                        found = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
                        if stat.S_ISDIR(found.st_mode) and is_directory(parts[0], place):
                            self.tighten(directory, entry.name, found)
                            yield entry.name, None
                        elif stat.S_ISREG(found.st_mode) and is_place(parts[0], place):
                            self.tighten(directory, entry.name, found)
                            yield entry.name, found
                    except OSError:
                        pass
        finally:
            os.close(directory)

    def tighten(self, directory, name, found):
        """Removes the permissions of other users from an existing file or directory."""
        if found.st_mode & 0o007:
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
                try:
                    os.fchmod(descriptor, found.st_mode & 0o2770)
                finally:
                    os.close(descriptor)
            except OSError:
                pass

    def directories(self, parts):
        return sorted((name for name, found in self.entries(parts) if found is None), key=str.encode)

    def unit(self, parts):
        files, todo = [], [parts]
        while todo:
            at = todo.pop()
            for name, found in self.entries(at):
                if found is None:
                    todo.append(at + [name])
                else:
                    files.append(("/".join(at[len(parts) :] + [name]), found))
        return "/".join(parts), files

    def list(self):
        while self.units is not None and self.credit > 0:
            unit = next(self.units, None)
            if unit is None:
                self.units = None
                self.say(22)
                return
            self.credit -= 1
            path, files = unit
            some, size = [], 0
            for name, found in files:
                seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
                entry = text(name) + struct.pack("<QqI", found.st_size, seconds, nanoseconds)
                some.append(entry)
                size += len(entry)
                if size > CHUNK:
                    self.say(21, text(path) + struct.pack("<BI", 0, len(some)) + b"".join(some))
                    some, size = [], 0
            self.say(21, text(path) + struct.pack("<BI", 1, len(some)) + b"".join(some))

    # Carrying out the sender's frames.

    def answer(self, lane, act):
        """Refuses a file for an error that affects only this file; any other error ends the run."""
        try:
            size, digest = act()
        except OSError as error:
            if error.errno not in IN_ITS_WAY:
                raise
            self.say(24, bytes([lane]) + text(os.strerror(error.errno)))
        else:
            self.say(23, bytes([lane]) + struct.pack("<Q", size) + digest)

    def end(self, lane):
        self.place(lane)
        descriptor, _, _, _, size, digest = self.lanes.pop(lane)
        os.close(descriptor)
        return size, digest.digest()

    def hash(self, parts):
        descriptor = self.open_file(parts)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            size, digest = 0, hashlib.sha256()
            while data := os.read(descriptor, CHUNK):
                size += len(data)
                digest.update(data)
            return size, digest.digest()
        finally:
            os.close(descriptor)

    def lane(self, body):
        (lane,) = body.unpack("B")
        if lane >= LANES:
            raise Stop(DATA, "the sender uses lane %d, but there are only %d, numbered from 0" % (lane, LANES))
        return lane

    def carry_out(self, data):
        kind, body = data[0], Body(data)
        body.at = 1
        if kind == 2:
            if self.units is not None:
                raise Stop(DATA, "the sender requested a list before the last one was complete")
            (count,) = body.unpack("I")
            self.units, self.credit = self.walk([body.text() for _ in range(count)]), 0
        elif kind == 3:
            self.credit += body.unpack("I")[0]
        elif kind == 4:
            lane = self.lane(body)
            parts = check(body.text())
            seconds, nanoseconds = body.unpack("qI")
            self.forget(lane)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(str(lane), flags, 0o600, dir_fd=self.staging)
            self.lanes[lane] = [descriptor, parts, seconds, nanoseconds, 0, hashlib.sha256()]
        elif kind == 5:
            lane, content = self.lane(body), memoryview(data)[2:]
            if len(content) > CHUNK:
                raise Stop(IO, "the stream is broken: a frame is too long")
            if lane not in self.lanes:
                raise Stop(DATA, "the sender continued a file that it had not started")
            file = self.lanes[lane]
            file[4] += len(content)
            file[5].update(content)
            while content:
                content = content[os.write(file[0], content) :]
        elif kind == 6:
            lane = self.lane(body)
            if lane not in self.lanes:
                raise Stop(DATA, "the sender continued a file that it had not started")
            self.answer(lane, lambda: self.end(lane))
            self.forget(lane)
        elif kind == 7:
            self.forget(self.lane(body))
        elif kind == 8:
            lane = self.lane(body)
            parts = check(body.text())
            self.answer(lane, lambda: self.hash(parts))
        elif kind == 9:
            self.remove(check(body.text()))
        elif kind == 10:
            os.sync()
            self.say(25)
        elif kind == ALIVE:
            pass
        elif kind == 1 or 20 <= kind <= 26:
            raise Stop(DATA, "unexpected frame from the sender: type %d" % kind)
        else:
            raise Stop(IO, "the stream is broken: a frame has an unknown type")
        self.list()

    def remove(self, parts):
        try:
            self.with_parent(parts, False, lambda at: os.unlink(parts[-1], dir_fd=at))
            while len(parts) > 2:
                parts = parts[:-1]
                self.with_parent(parts, False, lambda at: os.rmdir(parts[-1], dir_fd=at))
        except OSError as error:
            if error.errno not in IN_ITS_WAY:
                raise

    def work(self):
        data = self.read()
        if data is None or data[0] != 1:
            raise Stop(DATA, "the other side is not a sender of media-sync")
        body = Body(data)
        body.at = 1
        magic = body.text()
        if magic != MAGIC:
            raise Stop(DATA, "the sender uses protocol %s, this receiver %s" % (magic, MAGIC))
        has_owner, user, group, idle = body.unpack("BIII")
        self.idle = min(max(idle, 1), 86400)
        self.owner = (user, group) if has_owner else None
        self.alive.start()
        self.open()
        self.say(20, text(MAGIC))
        self.stdout.flush()
        while (data := self.read()) is not None and data[0] != BYE:
            self.carry_out(data)
            self.stdout.flush()

    def run(self):
        try:
            self.work()
            return 0
        except Stop as stop:
            exit, why = stop.exit, str(stop)
        except PermissionError as error:
            exit, why = PERMISSION, str(error)
        except OSError as error:
            exit, why = IO, str(error)
        except (MemoryError, OverflowError, ValueError, struct.error) as error:
            # A number that the system does not accept, such as a time out of range: an error of the sender.
            exit, why = DATA, "the sender sent an invalid value: %s" % error
        finally:
            self.over.set()
            if self.alive.is_alive():
                self.alive.join()
            self.sweep()
        self.say(26, bytes([exit]) + text(why))
        self.stdout.flush()
        print("media-sync: " + why, file=sys.stderr)
        return exit


if __name__ == "__main__":
    os.umask(0o077)
    # Keep the existing buffers: the loader of this script may have read ahead.
    sys.exit(Receiver(os.path.abspath(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer).run())
