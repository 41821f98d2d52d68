package sluice.clients;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** The command line. */
final class Options {
    String namesrv;
    List<String> only = new ArrayList<>();
    int millionCount = 1_000_000;
    Path text;
    long deadlineSeconds = 120;
    final String runId = Long.toString(System.currentTimeMillis(), 36);

    static Options parse(String[] arguments) {
        Options options = new Options();
        for (int i = 0; i < arguments.length; i++) {
            String name = arguments[i];
            if (i + 1 == arguments.length) {
                throw new IllegalArgumentException(name + " needs a value, or is unknown");
            }
            switch (name) {
                case "--namesrv" -> options.namesrv = arguments[++i];
                case "--million-count" -> options.millionCount = Integer.parseInt(arguments[++i]);
                case "--text" -> options.text = Path.of(arguments[++i]);
                case "--deadline" -> options.deadlineSeconds = Long.parseLong(arguments[++i]);
                case "--only" -> {
                    while (i + 1 < arguments.length && !arguments[i + 1].startsWith("--")) {
                        options.only.add(arguments[++i]);
                    }
                }
                default -> throw new IllegalArgumentException("unknown option " + name);
            }
        }
        if (options.namesrv == null) {
            throw new IllegalArgumentException("--namesrv HOST:PORT is required");
        }
        return options;
    }
}
