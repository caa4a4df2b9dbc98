# SPDX-License-Identifier: Apache-2.0
"""The web page in a headless browser against a served model: type, stream, stop, retry, edit, reload, compare, key."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ["SLUICE_BINARY"]
PICTURES = os.environ.get("WEB_PICTURES")  # folder for screenshots


class Server:
    def __init__(self, home, *arguments, model=str(ROOT / "tests/models/demo")):
        self.home = home
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "SLUICE_HOME": str(home / "sluice"), "SLUICE_THREADS": "1"}
        self.log = open(home / "log", "w+")
        self.process = subprocess.Popen([BINARY, "serve", "--model", model, "--host", "127.0.0.1", *arguments], env=environment,
                                        stderr=self.log, stdout=self.log)
        deadline = time.monotonic() + 240
        while True:
            text = (home / "log").read_text()
            found = re.search(r'"port": ?(\d+)', text)
            if found:
                break
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start:\n" + text)
            time.sleep(0.1)
        self.url = "http://127.0.0.1:" + found.group(1)

    def key(self):
        return next((self.home / "sluice/keys").glob("*.key")).read_text().strip()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-web-"))
        (cls.folder / "one").mkdir()
        (cls.folder / "two").mkdir()
        cls.server = Server(cls.folder / "one")
        cls.slow = Server(cls.folder / "two", "--auth", "none", model="null")
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,800",
                         "--user-data-dir=" + str(cls.folder / "profile"), "--no-proxy-server"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        cls.browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    @classmethod
    def tearDownClass(cls):
        cls.browser.quit()
        cls.server.close()
        cls.slow.close()
        shutil.rmtree(cls.folder, ignore_errors=True)

    def setUp(self):
        self.open()
        self.browser.execute_script("localStorage.clear()")
        self.open()

    def open(self, fragment=None):
        self.browser.get("about:blank")
        self.browser.get(self.server.url + "/#key=" + self.server.key() if fragment is None else self.server.url + "/" + fragment)

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition, seconds=120):
        # The page rewrites a message while it grows: an element found may be gone when it is read.
        return WebDriverWait(self.browser, seconds, 0.05, (NoSuchElementException, StaleElementReferenceException)).until(lambda _: condition())

    def say(self, text):
        self.find("#input").send_keys(text, Keys.ENTER)

    def answered(self, count=1):
        self.wait(lambda: len(self.all(".message.assistant .figures")) >= count and not self.find("#stop").is_displayed())
        return [node.text for node in self.all(".message.assistant .body")]

    def picture(self, name):
        if PICTURES:
            self.browser.save_screenshot(os.path.join(PICTURES, name + ".png"))

    def test_a_question_is_answered_and_survives_a_reload(self):
        self.say("What is the capital of France?")
        self.assertIn("Paris", self.answered()[0])
        self.assertIn("tokens", self.find(".message.assistant .figures").text)
        self.say("What is 2 plus 3?")
        self.answered(2)
        self.picture("chat")
        self.browser.refresh()
        self.wait(lambda: len(self.all(".message.assistant")) == 2)
        self.assertIn("Paris", self.all(".message.assistant .body")[0].text)
        self.assertEqual(len(self.all("#conversations li")), 1)
        self.find("#theme").click()
        self.picture("dark")

    def test_the_key_leaves_the_address_and_is_asked_for_where_it_is_missing(self):
        self.assertNotIn("key", self.browser.current_url)
        self.browser.execute_script("sessionStorage.clear()")
        self.open("")
        self.wait(lambda: self.find("#key-dialog").is_displayed())
        self.picture("key")
        self.find("#key-input").send_keys(self.server.key(), Keys.ENTER)
        self.wait(lambda: not self.find("#key-dialog").is_displayed())
        self.say("What is the opposite of hot?")
        self.assertIn("cold", self.answered()[0])

    def test_retry_and_edit_replace_what_follows(self):
        self.say("What is the capital of France?")
        self.answered()
        next(b for b in self.all(".message.assistant button") if b.text == "Retry").click()
        self.assertIn("Paris", self.answered()[0])
        self.say("What is the capital of Italy?")
        self.answered(2)
        next(b for b in self.all(".message.user button") if b.text == "Edit").click()
        area = self.find(".message textarea")
        area.clear()
        area.send_keys("What is the capital of Spain?")
        next(b for b in self.all(".message button") if b.text == "Send again").click()
        self.wait(lambda: len(self.all(".message.assistant")) == 1)
        self.assertIn("Madrid", self.answered()[0])

    def test_stop_ends_the_answer_and_keeps_what_came(self):
        self.browser.get(self.slow.url)
        self.browser.execute_script("localStorage.clear()")
        self.browser.get(self.slow.url)
        field = self.find("#p-max_tokens")
        field.clear()
        field.send_keys("8000")
        self.find("#p-mode").send_keys("completion")
        self.browser.execute_cdp_cmd("Network.enable", {})
        self.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": 20000,
                                                                          "uploadThroughput": 20000})
        try:
            self.say("x")
            self.wait(lambda: self.find("#stop").is_displayed() and self.all(".message.assistant .body") and
                      self.all(".message.assistant .body")[0].text)
            self.find("#input").send_keys(Keys.ESCAPE)
            self.wait(lambda: self.all(".message.assistant .figures"))
        finally:
            self.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": -1,
                                                                              "uploadThroughput": -1})
        self.assertIn("stopped", self.find(".message.assistant .figures").text)
        self.assertTrue(self.find("#send").is_displayed())
        self.assertTrue(self.find(".message.assistant .body").text)

    def test_conversations_are_listed_opened_and_deleted(self):
        self.say("What is the capital of France?")
        self.answered()
        self.find("#new").click()
        self.assertEqual(self.all(".message"), [])
        self.say("What is the capital of Italy?")
        self.answered()
        self.assertEqual(len(self.all("#conversations li")), 2)
        self.all("#conversations .title")[1].click()
        self.assertIn("Paris", self.find(".message.assistant .body").text)
        self.all("#conversations li")[1].find_element(By.CSS_SELECTOR, "[aria-label^=Delete]").click()
        self.assertEqual(len(self.all("#conversations li")), 1)

    def test_two_sides_answer_the_same_question(self):
        self.find("#tab-compare").click()
        self.find("#compare-input").send_keys("What is the capital of France?", Keys.ENTER)
        self.wait(lambda: len(self.all("#sides .figures")) == 2)
        for body in self.all("#sides .message.assistant .body"):
            self.assertIn("Paris", body.text)
        self.assertFalse(self.find("#own-parameters").is_displayed())
        self.picture("compare")

    def test_a_second_server_takes_one_side(self):
        self.find("#tab-compare").click()
        for details in self.all(".side details"):
            details.find_element(By.TAG_NAME, "summary").click()
        self.find("#c1-url").send_keys(self.server.url.replace("127.0.0.1", "localhost"))
        self.find("#c1-token").send_keys(self.server.key())
        self.find("#compare-input").send_keys("What is the capital of France?", Keys.ENTER)
        self.wait(lambda: len(self.all("#sides .figures")) == 2)
        self.assertEqual(len(self.all("#sides .error")), 0, self.find("#sides").text)

    def test_the_live_panel_moves(self):
        self.say("Tell me a story.")
        self.answered()
        self.wait(lambda: len(self.all(".plot")) >= 4)
        self.wait(lambda: self.find("#status").text == "ready")
        self.assertIn("%", self.find("#plot-cache .value").text)

    def test_the_live_panel_has_figures_once_it_is_opened(self):
        for opened in ("#aside", "#key-dialog"):
            self.browser.set_window_size(480 if opened == "#aside" else 1280, 800)
            try:
                self.browser.execute_script("sessionStorage.clear()")
                self.open(None if opened == "#aside" else "")
                self.wait(lambda: self.find("#status").get_attribute("class").endswith(("good", "bad")))
                self.assertEqual(self.all(".plot"), [])
                self.browser.execute_script("window.setTimeout = () => 0; clearTimeout(panel.timer)")
                if opened == "#aside":
                    self.find("#aside").click()
                else:
                    self.find("#key-input").send_keys(self.server.key(), Keys.ENTER)
                self.wait(lambda: len(self.all(".plot")) >= 4)
            finally:
                self.browser.set_window_size(1280, 800)

    def test_a_conversation_may_take_what_is_left_and_a_completion_may_not(self):
        most = [self.browser.execute_script("return requestBody([], {mode: arguments[0], max_tokens: arguments[1]}).max_tokens ?? 0", mode, tokens)
                for mode in ("chat", "completion") for tokens in ("", "7")]
        self.assertEqual(most, [0, 7, 512, 7])

    def test_answers_are_text_whatever_they_hold(self):
        drawn = self.browser.execute_script("""
          const box = document.createElement("div");
          box.append(markdown(arguments[0]));
          return box.innerHTML;""", "# Head\n\n- one\n  - two\n\n1. x\n\n| a | b |\n|---|---|\n| 1 | `2` |\n\n<img src=x onerror=alert(1)> **bold** "
                    "[l](javascript:alert(1)) [ok](https://e.org/a)\n\n```py\nprint('<b>')\n```\n> q")
        self.assertNotIn("<img", drawn)
        self.assertNotIn('href="javascript', drawn)
        for part in ("<h3>Head</h3>", "<li>one<ul><li>two</li></ul></li>", "<ol><li>x</li></ol>", "<td><code>2</code></td>", "<strong>bold</strong>",
                     'href="https://e.org/a"', "print('&lt;b&gt;')", "<blockquote><p>q</p></blockquote>"):
            self.assertIn(part, drawn)

    def test_everything_is_reached_by_keyboard_and_named(self):
        unnamed = self.browser.execute_script("""
          return [...document.querySelectorAll("button, input, textarea, select")].filter((n) => n.offsetParent !== null &&
            !(n.textContent.trim() && n.tagName === "BUTTON") && !n.getAttribute("aria-label") && !n.labels?.length).map((n) => n.outerHTML)""")
        self.assertEqual(unnamed, [])
        self.find("#tab-chat").send_keys(Keys.ARROW_RIGHT)
        self.assertEqual(self.find("#tab-compare").get_attribute("aria-selected"), "true")
        self.assertEqual(self.find("#tab-chat").get_attribute("tabindex"), "-1")

    def test_a_narrow_window_folds_its_sides(self):
        self.browser.set_window_size(480, 800)
        try:
            self.wait(lambda: not self.find("#panel").is_displayed() and not self.find("#sidebar").is_displayed())
            self.assertEqual(self.find("#input").get_attribute("placeholder"), "Message")
            self.say("What is the capital of France?")
            self.answered()
            self.assertLessEqual(self.browser.execute_script("return document.documentElement.scrollWidth - innerWidth"), 0)
            self.picture("narrow")
            self.find("#menu").click()
            self.assertTrue(self.find("#sidebar").is_displayed())
            self.find("#menu").click()
            self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
            for tab in ("#tab-compare", "#tab-chat"):
                self.find(tab).click()
                self.assertEqual(self.browser.execute_script("return document.documentElement.scrollWidth"), 360, tab)
            self.picture("phone")
        finally:
            self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            self.browser.set_window_size(1280, 800)

    def test_the_browser_has_nothing_to_complain_about(self):
        self.browser.get_log("browser")
        self.open()
        self.say("What is the capital of France?")
        self.answered()
        time.sleep(0.5)
        complaints = [e["message"] for e in self.browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        self.assertEqual(complaints, [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
