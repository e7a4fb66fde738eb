"""paho-mqtt in both versions of MQTT, driven over standard input as the other peers are: a number, a command and fields, by tabs.

`visit` is a whole session: it connects, subscribes to a topic, publishes to it, and says what each was answered with.
`open` is a session that stays, `watch` one that hears as well; `heard` says what it heard, `publish` has it publish."""

import json
import queue
import sys
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 20
lock = threading.Lock()
sessions = {}


def say(number, **answer):
    with lock:
        print(json.dumps({"id": number, **answer}), flush=True)


def properties(kind, text):
    own = Properties(kind)
    pairs = [tuple(pair.split("=", 1)) for pair in text.split(",") if pair]
    if pairs:
        own.UserProperty = pairs
    return own


class Session:
    def __init__(self, fields):
        self.version = int(fields["version"])
        self.id = fields["id"]
        self.said = queue.Queue()
        self.messages = queue.Queue()
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=fields["id"], protocol=self.version, reconnect_on_failure=False
        )
        if "user" in fields:
            self.client.username_pw_set(fields["user"], "secret")
        self.client.on_connect = lambda client, data, flags, reason, own: self.said.put(("CONNACK", reason))
        self.client.on_subscribe = lambda client, data, mid, reasons, own: self.said.put(("SUBACK", reasons[0]))
        self.client.on_publish = lambda client, data, mid, reason, own: self.said.put(("PUBACK", reason))
        self.client.on_disconnect = lambda client, data, flags, reason, own: self.said.put(("END", reason))
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        more = {}
        if self.version == paho.MQTTv5:
            more["properties"] = properties(PacketTypes.CONNECT, fields.get("connect", ""))
        self.client.connect(fields["host"], int(fields["port"]), **more)
        self.client.loop_start()

    def answer(self, told):
        what, reason = self.said.get(timeout=PATIENCE)
        told.append({"what": what, "reason": str(reason), "code": reason.value, "id": self.id})
        return what != "END" and not reason.is_failure

    def publish(self, topic, payload, qos, own):
        more = {}
        if self.version == paho.MQTTv5:
            more["properties"] = properties(PacketTypes.PUBLISH, own)
        return self.client.publish(topic, payload, qos=qos, **more)

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


def visit(fields):
    told = []
    session = Session(fields)
    try:
        if session.answer(told):
            topic = fields["topic"]
            session.client.subscribe(topic, qos=1)
            session.answer(told)
            session.publish(topic, fields.get("payload", "x"), 1, fields.get("own", ""))
            session.answer(told)
    finally:
        session.end()
    return told


def open_(fields):
    told = []
    session = sessions[fields["name"]] = Session(fields)
    session.answer(told)
    return told


def watch(fields):
    told = []
    session = Session(fields)
    if session.answer(told):
        session.client.subscribe(fields["topic"], qos=int(fields.get("qos", "2")))
        session.answer(told)
    sessions[fields["name"]] = session
    return told


def publish(fields):
    session = sessions[fields["name"]]
    qos = int(fields.get("qos", "0"))
    for number in range(int(fields.get("count", "1"))):
        payload = fields.get("payload", "").replace("#", str(number)) + "z" * int(fields.get("size", "0"))
        sent = session.publish(fields["topic"], payload, qos, fields.get("own", ""))
        sent.wait_for_publish(timeout=PATIENCE)
        if not sent.is_published():
            raise TimeoutError("not published")


def heard(fields):
    session = sessions[fields["name"]]
    wait = float(fields.get("wait", PATIENCE))
    all_ = []
    try:
        while len(all_) < int(fields["count"]):
            message = session.messages.get(timeout=wait)
            own = getattr(message, "properties", None)
            all_.append({
                "topic": message.topic,
                "payload": message.payload.decode(),
                "qos": message.qos,
                "retain": message.retain,
                "own": [list(pair) for pair in getattr(own, "UserProperty", [])],
            })
    except queue.Empty:
        pass
    return all_


def end(fields):
    sessions.pop(fields["name"]).end()


COMMANDS = {"visit": visit, "open": open_, "watch": watch, "publish": publish, "heard": heard, "end": end}


def run(number, command, fields):
    try:
        say(number, ok=True, value=COMMANDS[command](fields))
    except Exception as error:
        say(number, ok=False, error={"class": type(error).__name__, "message": str(error), "code": None})


def main():
    say(0, ok=True, value=None)
    for line in sys.stdin:
        number, command, *fields = line.rstrip("\n").split("\t")
        fields = dict(own.split("=", 1) for own in fields)
        threading.Thread(target=run, args=(int(number), command, fields), daemon=True).start()


main()
