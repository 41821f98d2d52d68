package sluice.clients;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RequestCode;
import org.apache.rocketmq.remoting.protocol.ResponseCode;

/** Sends while the connection or the broker fails on purpose. */
final class Failures {
    private Failures() {}

    /** Connections are cut under asynchronous load: each callback is called exactly once and what it called a success is stored. */
    static void asyncCut(Bench bench) throws Exception {
        String topic = bench.topic("topic", 4);
        Forwarder forwarder = bench.closing(new Forwarder(bench.brokerAddresses().get(0)));
        Facade names = bench.closing(Facade.nameServer(bench.options.namesrv, forwarder.address()));
        DefaultMQProducer producer = bench.producer(names.address());
        int count = 4000;
        AtomicIntegerArray calls = new AtomicIntegerArray(count);
        AtomicInteger called = new AtomicInteger();
        Set<String> acked = ConcurrentHashMap.newKeySet();
        int cuts = 0;
        for (int i = 0; i < count; i++) {
            int number = i;
            producer.send(Bench.message(topic, "tag", null, Integer.toString(i)), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    acked.add(Integer.toString(number));
                    calls.incrementAndGet(number);
                    called.incrementAndGet();
                }

                @Override
                public void onException(Throwable e) {
                    calls.incrementAndGet(number);
                    called.incrementAndGet();
                }
            });
            // Paced so that the client has time to connect again between two cuts.
            if (i % 20 == 19) {
                Thread.sleep(10);
            }
            if (i % 400 == 399) {
                cuts += forwarder.cut();
            }
        }
        Check.that(cuts >= 3, "only %s connections were cut", cuts);
        Check.eventually(30_000, "all callbacks called", () -> called.get() >= count);
        Thread.sleep(1000); // A second call would come late.
        for (int i = 0; i < count; i++) {
            Check.equal(1, calls.get(i), "calls of the callback of message " + i);
        }
        Check.that(acked.size() > count / 4, "only %s of %s were acked", acked.size(), count);
        for (MessageExt message : bench.drain(topic, acked.size(), 500)) {
            acked.remove(Bench.body(message));
        }
        Check.equal(0, acked.size(), "acked messages that were lost");
    }

    /** A broker before the real one that fails the first sends of each message. */
    private static final class Flaky implements Facade.Intercept {
        final AtomicInteger attempts = new AtomicInteger();
        final AtomicInteger failuresLeft = new AtomicInteger();
        private final RemotingCommand failure;

        Flaky(RemotingCommand failure) {
            this.failure = failure;
        }

        @Override
        public RemotingCommand answer(RemotingCommand request) {
            int code = request.getCode();
            if (code != RequestCode.SEND_MESSAGE && code != RequestCode.SEND_MESSAGE_V2) {
                return null;
            }
            attempts.incrementAndGet();
            if (failuresLeft.getAndUpdate(left -> Math.max(0, left - 1)) == 0) {
                return null;
            }
            return failure == Facade.DROP ? failure : RemotingCommand.createResponseCommand(failure.getCode(), failure.getRemark());
        }

        void failNext(int failures) {
            attempts.set(0);
            failuresLeft.set(failures);
        }
    }

    private static DefaultMQProducer producerThrough(Bench bench, Flaky flaky) throws Exception {
        Facade broker = bench.closing(Facade.broker(bench.brokerAddresses().get(0), flaky));
        Facade names = bench.closing(Facade.nameServer(bench.options.namesrv, broker.address()));
        DefaultMQProducer producer = bench.unstartedProducer(names.address());
        producer.setSendMsgTimeout(10_000);
        producer.setRetryTimesWhenSendFailed(3);
        producer.setRetryTimesWhenSendAsyncFailed(3);
        // With it the client sends a heartbeat from another thread whenever it has connected. If that thread finds the connection closed first, the client
        // forgets to fail the sends that wait on it, and they end by their timeout in place of a retry.
        producer.setEnableHeartbeatChannelEventListener(false);
        producer.start();
        return producer;
    }

    static void retrySync(Bench bench) throws Exception {
        String topic = bench.topic("topic", 4);
        Flaky flaky = new Flaky(RemotingCommand.createResponseCommand(ResponseCode.SYSTEM_BUSY, "busy on purpose"));
        DefaultMQProducer producer = producerThrough(bench, flaky);
        for (int failures = 0; failures <= 3; failures++) {
            flaky.failNext(failures);
            SendResult result = producer.send(Bench.message(topic, "tag", null, "after " + failures));
            Check.equal(SendStatus.SEND_OK, result.getSendStatus(), "status after failures: " + failures);
            Check.equal(failures + 1, flaky.attempts.get(), "attempts with failures: " + failures);
        }
        flaky.failNext(100);
        try {
            producer.send(Bench.message(topic, "tag", null, "never"));
            throw new Check.Failed("a send that failed four times was called a success");
        } catch (MQClientException e) {
            Check.equal(ResponseCode.SYSTEM_BUSY, e.getResponseCode(), "code after the last attempt");
        }
        Check.equal(4, flaky.attempts.get(), "attempts when all fail");
        expectOnce(bench.drain(topic, 4, 500), 4);
    }

    static void retryAsync(Bench bench) throws Exception {
        String topic = bench.topic("topic", 4);
        Flaky flaky = new Flaky(Facade.DROP);
        DefaultMQProducer producer = producerThrough(bench, flaky);
        for (int failures = 0; failures <= 3; failures++) {
            flaky.failNext(failures);
            Throwable failed = sendAndWait(producer, topic, "after " + failures);
            Check.that(failed == null, "send after %s dropped connections failed at attempt %s: %s", failures, flaky.attempts.get(), failed);
            Check.equal(failures + 1, flaky.attempts.get(), "attempts with failures: " + failures);
        }
        flaky.failNext(100);
        Check.that(sendAndWait(producer, topic, "never") != null, "a send that failed four times was called a success");
        Check.equal(4, flaky.attempts.get(), "attempts when all fail");
        expectOnce(bench.drain(topic, 4, 500), 4);
    }

    /** Null, or what the callback was given; fails if the callback is called twice. */
    private static Throwable sendAndWait(DefaultMQProducer producer, String topic, String body) throws Exception {
        CountDownLatch done = new CountDownLatch(1);
        AtomicInteger calls = new AtomicInteger();
        AtomicReference<Throwable> failure = new AtomicReference<>();
        producer.send(Bench.message(topic, "tag", null, body), new SendCallback() {
            @Override
            public void onSuccess(SendResult result) {
                calls.incrementAndGet();
                done.countDown();
            }

            @Override
            public void onException(Throwable e) {
                failure.set(e);
                calls.incrementAndGet();
                done.countDown();
            }
        });
        Check.that(done.await(15, TimeUnit.SECONDS), "the callback of '%s' was not called", body);
        Thread.sleep(200);
        Check.equal(1, calls.get(), "calls of the callback of '" + body + "'");
        return failure.get();
    }

    private static void expectOnce(List<MessageExt> read, int count) {
        Map<String, Integer> seen = new HashMap<>();
        read.forEach(message -> seen.merge(Bench.body(message), 1, Integer::sum));
        Check.equal(count, seen.size(), "messages stored");
        Check.that(seen.values().stream().allMatch(times -> times == 1), "stored more than once: %s", seen);
    }
}
