package com.acme.rocketmq;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;

/** Calls what only some versions of the client have, or have in another package. */
final class Late {
    private Late() {
    }

    static Object create(String type, Object... arguments) throws Exception {
        for (var constructor : Class.forName(type).getConstructors()) {
            if (fits(constructor.getParameterTypes(), arguments)) {
                return constructor.newInstance(arguments);
            }
        }
        throw new NoSuchMethodException(type);
    }

    /** Calls a method of an object, or a static one of a class. */
    static Object call(Object target, String name, Object... arguments) throws Exception {
        Class<?> type = target instanceof Class<?> own ? own : target.getClass();
        for (Method method : type.getMethods()) {
            if (method.getName().equals(name) && fits(method.getParameterTypes(), arguments)) {
                try {
                    return method.invoke(target, arguments);
                } catch (InvocationTargetException error) {
                    if (error.getCause() instanceof Exception cause) {
                        throw cause;
                    }
                    throw error;
                }
            }
        }
        throw new NoSuchMethodException(type.getName() + "." + name);
    }

    /** Sets a property to the constant of this name, whatever package its type is in. */
    @SuppressWarnings({"unchecked", "rawtypes"})
    static void choose(Object target, String setter, String constant) throws Exception {
        for (Method method : target.getClass().getMethods()) {
            Class<?>[] types = method.getParameterTypes();
            if (method.getName().equals(setter) && types.length == 1 && types[0].isEnum()) {
                method.invoke(target, Enum.valueOf((Class) types[0], constant));
                return;
            }
        }
        throw new NoSuchMethodException(target.getClass().getName() + "." + setter);
    }

    private static boolean fits(Class<?>[] types, Object[] arguments) {
        if (types.length != arguments.length) {
            return false;
        }
        for (int i = 0; i < types.length; i++) {
            Object own = arguments[i];
            Class<?> type = types[i];
            boolean same = own == null ? !type.isPrimitive() : type.isInstance(own)
                    || type == boolean.class && own instanceof Boolean
                    || type == int.class && own instanceof Integer
                    || type == long.class && own instanceof Long;
            if (!same) {
                return false;
            }
        }
        return true;
    }
}
