package com.acme;

import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;

/** The service's one implementation, for every framework. */
public final class GreeterService implements Greeter {
    private final String name;
    private final Function<String, String> attachments;
    private final AtomicInteger naps = new AtomicInteger();
    private volatile String noted = "";

    public GreeterService(String name, Function<String, String> attachments) {
        this.name = name;
        this.attachments = attachments;
    }

    @Override
    public String sayHello(String to) {
        return "hello " + to + " from " + name;
    }

    @Override
    public Order echo(Order order) {
        return order;
    }

    @Override
    public int add(int left, int right) {
        return left + right;
    }

    @Override
    public void note(String text) {
        noted = text;
    }

    @Override
    public String noted() {
        return noted;
    }

    @Override
    public String fail(String why) throws GreetingException {
        throw new GreetingException(why);
    }

    @Override
    public String sleep(int millis) {
        // Told of each, so that repeated calls are seen.
        noted = "naps: " + naps.incrementAndGet();
        try {
            Thread.sleep(millis);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        return "slept " + millis;
    }

    @Override
    public String large(int length) {
        return "x".repeat(length);
    }

    @Override
    public int measure(String text) {
        return text.length();
    }

    @Override
    public String who() {
        return name;
    }

    @Override
    public String attachment(String key) {
        return attachments.apply(key);
    }

    @Override
    public String nothing() {
        return null;
    }
}
