"""Speaks MQTT with paho-mqtt and gmqtt to HOST PORT, in every version they know. Prints `fine`, or fails."""

import asyncio
import queue
import sys

import gmqtt
import paho.mqtt.client as paho

host, port = sys.argv[1], int(sys.argv[2])


def with_paho(version, transport="tcp"):
    heard = queue.Queue()
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2, client_id=f"paho-{version}-{transport}", protocol=version, transport=transport
    )
    if transport == "websockets":
        client.ws_set_options(path="/mqtt")
    client.on_message = lambda client, data, message: heard.put(message)
    client.on_connect = lambda client, data, flags, reason, properties: heard.put(reason)
    client.on_subscribe = lambda client, data, mid, reasons, properties: heard.put(reasons)
    client.connect(host, port)
    client.loop_start()
    assert heard.get(timeout=20) == 0
    topic = f"paho/{version}/{transport}"
    client.subscribe(topic, qos=2)
    assert [reason.value for reason in heard.get(timeout=20)] == [2]
    for qos in range(3):
        sent = client.publish(topic, f"at {qos}", qos=qos)
        sent.wait_for_publish(timeout=20)
        assert sent.is_published()
        message = heard.get(timeout=20)
        assert (message.topic, message.payload, message.qos) == (topic, f"at {qos}".encode(), qos)
    # More than one read's worth, and more than WebSocket tells in two bytes of length.
    client.publish(topic, b"z" * 300_000, qos=1).wait_for_publish(timeout=20)
    assert len(heard.get(timeout=20).payload) == 300_000
    client.disconnect()
    client.loop_stop()


for version in (paho.MQTTv31, paho.MQTTv311, paho.MQTTv5):
    with_paho(version)
    with_paho(version, "websockets")


async def with_gmqtt():
    heard = asyncio.Queue()
    client = gmqtt.Client("gmqtt", user_property=("site", "north"))
    client.on_message = lambda client, topic, payload, qos, properties: heard.put_nowait((topic, payload, qos, properties)) or 0
    subscribed = asyncio.Event()
    client.on_subscribe = lambda client, mid, reasons, properties: subscribed.set()
    await asyncio.wait_for(client.connect(host, port), 20)
    client.subscribe("gmqtt/#", qos=1)
    await asyncio.wait_for(subscribed.wait(), 20)
    client.publish("gmqtt/a", b"one", qos=1, user_property=("traceparent", "00-11-22-01"))
    topic, payload, qos, properties = await asyncio.wait_for(heard.get(), 20)
    assert (topic, payload, qos) == ("gmqtt/a", b"one", 1)
    assert ("traceparent", "00-11-22-01") in properties["user_property"], properties
    await client.disconnect()


asyncio.run(with_gmqtt())
print("fine")
