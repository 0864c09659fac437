"""Makes the pictures of the dashboard in docs/ from a running server with some traffic:

    QTRP_BIN_DIR=build/release/bin QTRP_PICTURES=docs python3 -m pytest tests/e2e/pictures.py
"""

import os
import pathlib
import time

import yaml

from test_dashboard import TOKEN, Traffic, browser  # noqa: F401


def test_pictures(lab, browser):  # noqa: F811
    directory = pathlib.Path(os.environ["QTRP_PICTURES"])
    server = lab.server(crypto="tls", start=False, stats={"listen": f"127.0.0.1:{lab.ports.take()}", "token": TOKEN},
                        auth={"tokens": [{"token": lab.token, "name": "home"}]})
    server.config_file.chmod(0o600)
    server.start().wait_log("listening for tunnels")
    services = {name: lab.ports.take() for name in ("ssh", "web", "git")}
    proxies = [{"name": name, "remote_port": port, "local_addr": lab.echo().address} for name, port in services.items()]
    client = lab.client(server, proxies, start=False)
    client.config_file.write_text(yaml.safe_dump(client.config | {"name": "kitchen"}))
    client.start()
    lab.wait_proxies(server, services.values())
    lab.client(server, [lab.echo()], name="stranger", token="a-token-that-is-not-known", wait=False)
    traffic = [Traffic(port, pause) for port, pause in zip([*services.values()] * 2, (0.2, 0.01, 0.05, 1, 0.1, 0.3))]
    page = browser.open(f"http://127.0.0.1:{server.stats_port}/")
    page.show_as(1200, 800)
    page.wait("!document.getElementById('sign').hidden")
    page.run(f"document.getElementById('token').value = '{TOKEN}', document.getElementById('login').requestSubmit()")
    time.sleep(float(os.environ.get("QTRP_PICTURE_SECONDS", "120")))  # for the plot
    page.screenshot(directory / "dashboard.png")
    page.show_as(390, 844, "dark", mobile=True)
    time.sleep(2)
    page.screenshot(directory / "dashboard-phone.png", whole=False)
    for one in traffic:
        one.end()
