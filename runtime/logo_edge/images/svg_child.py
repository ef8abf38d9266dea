"""The program of the child process of `svg`: reads SVG documents from stdin and answers each with a PNG or an error.

A document is (has text: bool, length: uint32) and its bytes. An answer is its length, one byte that is 1 for success,
and the PNG or the message. An empty document is answered at once. Arguments: the pixels of the longer side, and the
seconds of CPU time after which a document ends the process.
"""

import signal
import struct
import sys

MEMORY_BYTES = 1 << 30

try:
    import resource
except ImportError:  # Windows
    resource = None


def main() -> None:
    from resvg_py import svg_to_bytes

    px, limit_s = int(sys.argv[1]), float(sys.argv[2])
    if resource:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    while len(header := sys.stdin.buffer.read(5)) == 5:
        has_text, size = struct.unpack("<?I", header)
        answer = b"\1"
        if size:
            document = sys.stdin.buffer.read(size).decode("utf-8-sig")
            if resource:  # without text no file is opened any more
                resource.setrlimit(resource.RLIMIT_NOFILE, (files if has_text else 0, most))
            _limit_time(limit_s)
            try:
                picture = svg_to_bytes(
                    svg_string=document, width=px, height=px, dpi=96.0, skip_system_fonts=not has_text
                )
                answer += bytes(picture)
            except Exception as error:
                answer = b"\0" + str(error).encode()
            _limit_time(0)
        sys.stdout.buffer.write(struct.pack("<I", len(answer)) + answer)
        sys.stdout.buffer.flush()


def _limit_time(seconds: float) -> None:
    """Ends this process after so many seconds of CPU time; 0: never."""
    if hasattr(signal, "setitimer"):  # not on Windows, where the parent's clock alone counts
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
