"""An ordinary HTTP/3 client: libcurl in its GnuTLS flavour, which Debian builds with ngtcp2 and nghttp3 (13, or 12 with backports; the curl
program of Debian 12 has no HTTP/3). Called through ctypes; the numbers are those of curl/curl.h."""

import ctypes
import functools

URL, WRITEFUNCTION, HEADERFUNCTION, ERRORBUFFER = 10002, 20011, 20079, 10010
HTTP_VERSION, HTTPHEADER, CUSTOMREQUEST, NOBODY, INTERFACE = 84, 10023, 10036, 44, 10062
SSL_VERIFYPEER, SSL_VERIFYHOST, TIMEOUT_MS = 64, 81, 155
RESPONSE_CODE, USED_HTTP_VERSION = 0x200002, 0x20002E
HTTP_3_ONLY = 31
COLLECTOR = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)


class Http3Error(Exception):
    pass


class Answer:
    def __init__(self, status, fields, body):
        self.status, self.fields, self.body = status, fields, body


@functools.cache
def _curl():
    curl = ctypes.CDLL("libcurl-gnutls.so.4")
    curl.curl_version.restype = ctypes.c_char_p
    version = curl.curl_version().decode()
    assert "nghttp3" in version, f"{version} has no HTTP/3: bash cmake/install-deps.sh test"
    curl.curl_easy_init.restype = ctypes.c_void_p
    curl.curl_slist_append.restype = ctypes.c_void_p
    curl.curl_slist_append.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    curl.curl_slist_free_all.argtypes = [ctypes.c_void_p]
    for call in (curl.curl_easy_cleanup, curl.curl_easy_perform):
        call.argtypes = [ctypes.c_void_p]
    return curl


def fetch(address, path="/", method="GET", headers=(), source=None, timeout=20.0):
    """One request over HTTP/3 and nothing else to `address` (host:port), whatever its certificate. `source`: the local address to ask from."""
    curl = _curl()
    handle = ctypes.c_void_p(curl.curl_easy_init())
    body, head, error = bytearray(), [], ctypes.create_string_buffer(256)

    def set_option(option, value):
        value = ctypes.c_long(value) if isinstance(value, int) else value
        code = curl.curl_easy_setopt(handle, ctypes.c_int(option), value)
        assert code == 0, f"curl option {option}: {code}"

    def on_body(data, size, count, _):
        body.extend(ctypes.string_at(data, size * count))
        return size * count

    def on_header(data, size, count, _):
        head.append(ctypes.string_at(data, size * count).decode().strip())
        return size * count

    body_call, head_call, fields = COLLECTOR(on_body), COLLECTOR(on_header), None
    try:
        set_option(URL, ctypes.c_char_p(f"https://{address}{path}".encode()))
        set_option(HTTP_VERSION, HTTP_3_ONLY)
        set_option(SSL_VERIFYPEER, 0)
        set_option(SSL_VERIFYHOST, 0)
        set_option(TIMEOUT_MS, int(timeout * 1000))
        set_option(WRITEFUNCTION, body_call)
        set_option(HEADERFUNCTION, head_call)
        set_option(ERRORBUFFER, error)
        if method == "HEAD":
            set_option(NOBODY, 1)
        elif method != "GET":
            set_option(CUSTOMREQUEST, ctypes.c_char_p(method.encode()))
        if source:
            set_option(INTERFACE, ctypes.c_char_p(f"host!{source}".encode()))
        for field in headers:
            fields = curl.curl_slist_append(fields, field.encode())
        if fields:
            set_option(HTTPHEADER, ctypes.c_void_p(fields))
        code = curl.curl_easy_perform(handle)
        if code != 0:
            raise Http3Error(f"curl error {code}: {error.value.decode()}")
        status, version = ctypes.c_long(), ctypes.c_long()
        curl.curl_easy_getinfo(handle, ctypes.c_int(RESPONSE_CODE), ctypes.byref(status))
        curl.curl_easy_getinfo(handle, ctypes.c_int(USED_HTTP_VERSION), ctypes.byref(version))
        assert version.value == 30, f"HTTP version {version.value}"
        named = dict(line.split(": ", 1) for line in head if ": " in line)
        return Answer(status.value, {name.lower(): value for name, value in named.items()}, bytes(body))
    finally:
        curl.curl_easy_cleanup(handle)
        if fields:
            curl.curl_slist_free_all(fields)
