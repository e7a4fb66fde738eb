package com.acme.rocketmq;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.HexFormat;

/** The bodies of messages, which follow from their keys, and what tells them apart. */
public final class Body {
    private Body() {
    }

    /** A text of this many bytes (none: a short one), which compresses well. */
    public static byte[] of(String key, String size) {
        byte[] text = ("body of " + key + " ").getBytes(StandardCharsets.UTF_8);
        if (size == null) {
            return text;
        }
        byte[] body = new byte[Integer.parseInt(size)];
        for (int i = 0; i < body.length; i++) {
            body[i] = text[i % text.length];
        }
        return body;
    }

    public static String hash(byte[] body) {
        try {
            byte[] all = MessageDigest.getInstance("SHA-256").digest(body);
            return HexFormat.of().formatHex(Arrays.copyOf(all, 8));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }
}
