package sluice.clients;

/** One claim about a broker, checked with the official client. */
@FunctionalInterface
interface Scenario {
    void run(Bench bench) throws Exception;
}
