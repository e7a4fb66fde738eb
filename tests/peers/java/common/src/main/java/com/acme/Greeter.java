package com.acme;

/** The service that every peer offers and calls. */
public interface Greeter {
    String sayHello(String name);

    Order echo(Order order);

    int add(int left, int right);

    /** Called one-way: the caller gets no answer, {@link #noted} tells whether it arrived. */
    void note(String text);

    String noted();

    String fail(String why) throws GreetingException;

    String sleep(int millis);

    String large(int length);

    int measure(String text);

    /** The name the instance was exported under. */
    String who();

    /** The value of one attachment of the call, as the provider's framework sees it. */
    String attachment(String key);

    String nothing();
}
