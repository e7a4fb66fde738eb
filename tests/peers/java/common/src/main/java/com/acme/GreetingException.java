package com.acme;

/** A business exception. */
public class GreetingException extends Exception {
    private static final long serialVersionUID = 1L;

    public GreetingException() {
    }

    public GreetingException(String why) {
        super(why);
    }
}
