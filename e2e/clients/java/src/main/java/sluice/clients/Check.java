package sluice.clients;

import java.util.concurrent.Callable;

/** Assertions and bounded waits; a failure's text is the scenario's reason. */
final class Check {
    private Check() {}

    static final class Failed extends RuntimeException {
        Failed(String reason) {
            super(reason);
        }
    }

    static void that(boolean holds, String reason, Object... arguments) {
        if (!holds) {
            throw new Failed(arguments.length == 0 ? reason : String.format(reason, arguments));
        }
    }

    static void equal(Object expected, Object actual, String what) {
        that(java.util.Objects.equals(expected, actual), "%s: expected %s, got %s", what, expected, actual);
    }

    /** Waits until the condition holds; a condition that throws counts as not yet holding. */
    static void eventually(long millis, String what, Callable<Boolean> condition) throws InterruptedException {
        long end = System.nanoTime() + millis * 1_000_000;
        Exception last = null;
        while (true) {
            try {
                if (condition.call()) {
                    return;
                }
                last = null;
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                last = e;
            }
            if (System.nanoTime() > end) {
                throw new Failed("not within " + millis + " ms: " + what + (last == null ? "" : " (" + last + ")"));
            }
            Thread.sleep(20);
        }
    }
}
