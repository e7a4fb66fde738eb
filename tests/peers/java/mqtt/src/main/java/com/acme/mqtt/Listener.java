package com.acme.mqtt;

import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import org.eclipse.paho.mqttv5.client.IMqttToken;
import org.eclipse.paho.mqttv5.client.MqttCallback;
import org.eclipse.paho.mqttv5.client.MqttDisconnectResponse;
import org.eclipse.paho.mqttv5.common.MqttException;
import org.eclipse.paho.mqttv5.common.MqttMessage;
import org.eclipse.paho.mqttv5.common.packet.MqttProperties;

/** Keeps the payloads of what Paho's client hears. */
final class Listener implements MqttCallback {
    private final BlockingQueue<String> heard;

    Listener(BlockingQueue<String> heard) {
        this.heard = heard;
    }

    @Override
    public void messageArrived(String topic, MqttMessage message) {
        heard.add(new String(message.getPayload(), StandardCharsets.UTF_8));
    }

    @Override
    public void disconnected(MqttDisconnectResponse response) {
    }

    @Override
    public void mqttErrorOccurred(MqttException exception) {
    }

    @Override
    public void deliveryComplete(IMqttToken token) {
    }

    @Override
    public void connectComplete(boolean reconnect, String address) {
    }

    @Override
    public void authPacketArrived(int reason, MqttProperties properties) {
    }
}
