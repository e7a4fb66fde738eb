package com.acme.node;

/** The same service under the name that the npm provider offers it by. */
public interface Greeter extends com.acme.Greeter {
}
