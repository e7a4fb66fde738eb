package com.acme.sofa;

import java.io.Serializable;

/** What plain Bolt applications, without SOFA-RPC on top, send each other. */
public class Plain implements Serializable {
    private static final long serialVersionUID = 1L;

    private String text;

    public Plain() {
    }

    public Plain(String text) {
        this.text = text;
    }

    public String text() {
        return text;
    }
}
