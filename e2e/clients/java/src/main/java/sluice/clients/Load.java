package sluice.clients;

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Load for {@code cargo xtask chaos}: a producer with its default settings, a push and a pull consumer. A send begins each so many milliseconds, whether those before
 * it have ended or not, as long as a thread is free: a send that hangs does not keep others from being tried. Each thread is a process of the history. Each operation is a line of the output, with times of the machine's monotonic clock in nanoseconds:
 *
 * <pre>
 * sent PROCESS NUMBER BEGIN END ok OFFSET OFFSET_ID | error WHAT
 * came PROCESS GROUP AT OFFSET LOG_OFFSET ATTEMPT STORED VALUE_PROCESS VALUE_NUMBER CRC
 * </pre>
 *
 * {@code ready} is said when the consumers run, {@code quiet} when the senders have ended: they do so when the input ends. Consumers go on until the process is ended.
 */
final class Load {
    private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.US_ASCII);
    private static final AtomicBoolean OVER = new AtomicBoolean();

    private final String namesrv;
    private final String topic;
    private final int firstProcess;
    private final int senders;
    private final long everyMillis;
    /** Sends that are due. */
    private final Semaphore due = new Semaphore(0);

    private Load(String[] arguments) {
        namesrv = arguments[0];
        topic = arguments[1];
        firstProcess = Integer.parseInt(arguments[2]);
        senders = Integer.parseInt(arguments[3]);
        everyMillis = Long.parseLong(arguments[4]);
    }

    /** NAMESRV TOPIC FIRST_PROCESS SENDERS EVERY_MILLIS; the consumers' processes follow those of the senders. */
    public static void main(String[] arguments) throws Exception {
        new Load(arguments).run();
    }

    private void run() throws Exception {
        push(firstProcess + senders, topic + "-push");
        pull(firstProcess + senders + 1, topic + "-pull");
        DefaultMQProducer producer = new DefaultMQProducer(topic + "-producers");
        producer.setNamesrvAddr(namesrv);
        producer.start();
        say("ready");
        List<Thread> threads = new ArrayList<>();
        for (int sender = 0; sender < senders; sender++) {
            int process = firstProcess + sender;
            Thread thread = new Thread(() -> send(producer, process), "sender-" + process);
            thread.start();
            threads.add(thread);
        }
        Thread clock = new Thread(this::beat, "clock");
        clock.start();
        while (System.in.read() >= 0) {
            // Nothing is ever said to this program; only the end counts.
        }
        OVER.set(true);
        clock.join();
        due.release(senders);
        for (Thread thread : threads) {
            thread.join();
        }
        say("quiet");
    }

    private void beat() {
        while (!OVER.get()) {
            // What no thread is free for is left out.
            if (due.availablePermits() == 0) {
                due.release();
            }
            pause(everyMillis);
        }
    }

    private static void pause(long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException e) {
            OVER.set(true);
        }
    }

    private static synchronized void say(String line) {
        OUT.println(line);
        OUT.flush();
    }

    /** The same bytes as the harness makes of the two numbers. */
    private static byte[] body(int process, int number) {
        byte[] head = (process + " " + number + " ").getBytes(StandardCharsets.US_ASCII);
        byte[] body = Arrays.copyOf(head, head.length + (int) ((number * 397L + process) % 2000));
        Arrays.fill(body, head.length, body.length, (byte) 'x');
        return body;
    }

    private void send(DefaultMQProducer producer, int process) {
        for (int number = 1;; number++) {
            due.acquireUninterruptibly();
            if (OVER.get()) {
                return;
            }
            Message message = new Message(topic, body(process, number));
            long begin = System.nanoTime();
            String outcome;
            try {
                SendResult result = producer.send(message);
                outcome = result.getSendStatus() == SendStatus.SEND_OK
                    ? "ok " + result.getQueueOffset() + " " + result.getOffsetMsgId()
                    : "error " + result.getSendStatus();
            } catch (Exception e) {
                outcome = "error " + e.toString().replaceAll("\\s+", " ");
            }
            say("sent " + process + " " + number + " " + begin + " " + System.nanoTime() + " " + outcome);
        }
    }

    private void push(int process, String group) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> came(process, group, message));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    private void pull(int process, String group) throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group);
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.start();
        Thread thread = new Thread(() -> {
            while (true) {
                consumer.poll().forEach(message -> came(process, group, message));
            }
        }, "pull");
        thread.setDaemon(true);
        thread.start();
    }

    private static void came(int process, String group, MessageExt message) {
        CRC32 crc = new CRC32();
        crc.update(message.getBody());
        String[] words = new String(message.getBody(), StandardCharsets.US_ASCII).split(" ", 3);
        String value = words.length == 3 ? words[0] + " " + words[1] : "- -";
        say("came " + process + " " + group + " " + System.nanoTime() + " " + message.getQueueOffset() + " " + message.getCommitLogOffset() + " "
            + message.getReconsumeTimes() + " " + message.getStoreTimestamp() + " " + value + " " + crc.getValue());
    }
}
