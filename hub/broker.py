"""The broker's folder: what mosquitto is told, made from whom the hub knows, and kept up to date.

Promises: nothing is put into its place that has not been tried before in a handshake in memory: by
a certificate that is let in, at each name of the broker, against the very list of what is revoked.
Files go there whole, by a rename, and only those that differ. It neither starts the broker nor
looks whether that has read anew.
"""

import ipaddress
import json
import os
import re
import signal
import ssl
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from hub import durable
from hub.authority import HUB_NAME, Authority, in_memory, is_due, key_pem, new_key
from hub.certificates import Admitted
from protocol import topics
from protocol.identity import MAX_MESSAGE_BYTES

TOLD: Final = "broker.json"
CONFIG: Final = "mosquitto.conf"
AUTHORITY: Final = "authority.pem"
CERTIFICATE: Final = "broker.pem"
KEY: Final = "broker.key"
REVOKED: Final = "revoked.pem"
ACL: Final = "acl"
CHANGED: Final = "changed"
"""Written last of all: whoever may not be signalled can be told by it to read anew."""

PORT: Final = 8883
HUB_PORT: Final = 8884
PID_FILE: Final = Path("/run/mosquitto/mosquitto.pid")
HERE: Final = ("127.0.0.1", "localhost")
"""Names of every broker: by one of them the hub goes there."""
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


class BrokerError(Exception):
    """The folder cannot be made, or would keep everybody out; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Told:
    """What `shuaka-hub broker` was told: kept in the folder, for when the hub writes it again."""

    hosts: tuple[str, ...]
    """By which devices know the broker, beside HERE."""
    port: int = PORT
    hub_port: int = HUB_PORT
    pid_file: str = str(PID_FILE)

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not _is_host(host):
                raise BrokerError(f"{host!r} is no name or address of a machine")
        for port in (self.port, self.hub_port):
            if not 0 < port < 1 << 16:
                raise BrokerError(f"{port} is no port")
        if self.port == self.hub_port:
            raise BrokerError(f"port {self.port} cannot be both the devices' and the hub's")
        if not self.pid_file.isprintable() or not Path(self.pid_file).is_absolute():
            raise BrokerError(f"{self.pid_file!r} is no whole path of a file")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What the folder was made by; None where it was not yet. Raises BrokerError."""
        path = folder / TOLD
        try:
            held = json.loads(path.read_bytes())
            return cls(
                tuple(str(host) for host in held["hosts"]),
                int(held["port"]),
                int(held["hub_port"]),
                str(held["pid_file"]),
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BrokerError(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BrokerError(
                f"{path}: cannot be read ({error}); move it away and run shuaka-hub broker"
            ) from error

    @property
    def names(self) -> tuple[str, ...]:
        """All that the broker's certificate is for."""
        return tuple(dict.fromkeys((*HERE, *self.hosts)))


def arrange(
    folder: Path, authority: Authority, told: Told, admitted: Admitted, now_ms: int
) -> list[str]:
    """Brings the folder up to date; gives the names of the files that were written.

    Raises BrokerError, and then what was there is as it was, or up to date in part.
    """
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(0o750)
        key = _key(folder)
        wanted = {
            AUTHORITY: authority.pem(),
            CERTIFICATE: _certificate(folder, authority, key, told, now_ms),
            REVOKED: _revoked(folder, authority, admitted, now_ms),
            ACL: acl(admitted.edges).encode(),
            CONFIG: config(folder, told).encode(),
            TOLD: json.dumps(asdict(told)).encode(),
        }
        _try(authority, key, wanted, told, now_ms)
        written = [name for name, content in wanted.items() if _read(folder / name) != content]
        for name in written:
            durable.replace(folder / name, wanted[name], 0o640)
        if written:
            (folder / CHANGED).write_text(f"{now_ms}\n", "ascii")
    except OSError as error:
        raise BrokerError(f"{error.filename or folder}: {error.strerror}") from error
    return written


def read_anew(pid_file: str) -> str:
    """Has the broker read its files; why it was not told, empty where it was."""
    try:
        pid = int(Path(pid_file).read_text("ascii"))
        program = Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
        if pid <= 1 or program != "mosquitto":
            return f"{pid_file} names another program: {program}"
        os.kill(pid, signal.SIGHUP)
    except FileNotFoundError:
        return "mosquitto does not run, and reads them when it starts"
    except ValueError:
        return f"{pid_file}: holds no number of a process"
    except OSError as error:
        return f"mosquitto cannot be signalled: {error.strerror}"
    return ""


def acl(edges: Sequence[bytes]) -> str:
    """Who may say and hear what, a row for each device: what a pattern gives, it gives to all."""
    lines = [
        f"user {HUB_NAME}",
        f"topic read {topics.ALL_UP}",
        "topic write shuaka/v1/down/+/+",
        f"topic readwrite {topics.HUB_STATE}",
    ]
    for edge in edges:
        lines += [
            "",
            f"user {edge.hex()}",
            *(f"topic write {topics.up(edge, channel)}" for channel in topics.Up),
            f"topic read shuaka/v1/down/{edge.hex()}/+",
            f"topic read {topics.HUB_STATE}",
        ]
    return "\n".join([*lines, ""])


def config(folder: Path, told: Told) -> str:
    """mosquitto.conf."""
    where = str(folder.absolute())
    if not where.isprintable():
        raise BrokerError(f"{where!r}: mosquitto reads no path with such characters")
    listener = [
        # TLS 1.3 alone, and by certificate alone. The name in the certificate is user name and
        # client id: otherwise any device could take the hub's client id, and throw it out.
        "tls_version tlsv1.3",
        f"cafile {where}/{AUTHORITY}",
        f"certfile {where}/{CERTIFICATE}",
        f"keyfile {where}/{KEY}",
        f"crlfile {where}/{REVOKED}",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
    ]
    return "\n".join(
        [
            "# Written by shuaka-hub; changes made by hand are lost.",
            "per_listener_settings false",
            "allow_anonymous false",
            f"acl_file {where}/{ACL}",
            f"pid_file {told.pid_file}",
            "persistence false",
            "set_tcp_nodelay true",
            f"max_packet_size {2 * MAX_MESSAGE_BYTES}",
            "",
            f"listener {told.port}",
            *listener,
            "",
            f"listener {told.hub_port} 127.0.0.1",
            *listener,
            "",
        ]
    )


def is_up_to_date(folder: Path, edges: Sequence[bytes]) -> bool:
    """Whether the folder lets in these devices and no others."""
    return _read(folder / ACL) == acl(edges).encode()


def certificate_in(folder: Path) -> x509.Certificate | None:
    """The broker's certificate; None where there is none that can be read."""
    try:
        return x509.load_pem_x509_certificate(_read(folder / CERTIFICATE))
    except ValueError:
        return None


def _key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """Made once: a certificate that is renewed fits the key that is there, at any moment."""
    path = folder / KEY
    if not path.exists():
        durable.replace(path, key_pem(new_key()), 0o640)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise BrokerError(f"{path}: is no key ({error}); move it away") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BrokerError(f"{path}: is a key of another kind; move it away")
    return key


def _certificate(
    folder: Path, authority: Authority, key: ec.EllipticCurvePrivateKey, told: Told, now_ms: int
) -> bytes:
    """The one that is there, as long as it will do."""
    held = certificate_in(folder)
    if (
        held is not None
        and authority.made(held)
        and held.public_key() == key.public_key()
        and _names_in(held) == set(told.names)
        and held.not_valid_before_utc.timestamp() * 1000 <= now_ms
        and not is_due(held, now_ms)
    ):
        return held.public_bytes(Encoding.PEM)
    made = authority.for_broker(key.public_key(), told.names, now_ms)
    return made.public_bytes(Encoding.PEM)


def _names_in(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = names.get_values_for_type(x509.IPAddress)
    return {*names.get_values_for_type(x509.DNSName), *map(str, addresses)}


def _revoked(folder: Path, authority: Authority, admitted: Admitted, now_ms: int) -> bytes:
    """The list that is there, as long as it says the same."""
    try:
        held = x509.load_pem_x509_crl(_read(folder / REVOKED))
    except ValueError:
        held = None
    if (
        held is not None
        and authority.made(held)
        and held.last_update_utc.timestamp() * 1000 <= now_ms
        and {each.serial_number for each in held} == {each.serial for each in admitted.revoked}
    ):
        return held.public_bytes(Encoding.PEM)
    return authority.revoke(admitted.revoked, now_ms).public_bytes(Encoding.PEM)


def _try(
    authority: Authority,
    key: ec.EllipticCurvePrivateKey,
    wanted: dict[str, bytes],
    told: Told,
    now_ms: int,
) -> None:
    """Raises BrokerError where what is wanted would keep out who is to be let in."""
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.minimum_version = ssl.TLSVersion.TLSv1_3
        server.verify_mode = ssl.CERT_REQUIRED
        server.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        with in_memory(wanted[CERTIFICATE] + key_pem(key)) as path:
            server.load_cert_chain(path)
        with in_memory(wanted[AUTHORITY] + wanted[REVOKED]) as path:
            server.load_verify_locations(path)
        client = authority.as_hub(now_ms)
        for name in told.names:
            _shake_hands(server, client, name)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", None) or error.reason
        raise BrokerError(
            f"nothing was written: with it the broker would let nobody in ({why}); is the clock of"
            " this machine right?"
        ) from error


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far]
    # The client's part in TLS 1.3 ends before the server has looked at its certificate.
    for _ in range(8):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        if not waiting:
            return
    raise BrokerError(f"nothing was written: no handshake by the name {name} comes to an end")


def _is_host(host: str) -> bool:
    try:
        # as OpenSSL and Python write it, so that it is found again
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        labels = host.split(".")
        return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
