package sluice.clients;

import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;

/** Half messages, how they end, and who is asked when they do not. */
final class Transactions {
    private static final LocalTransactionState COMMIT = LocalTransactionState.COMMIT_MESSAGE;
    private static final LocalTransactionState ROLLBACK = LocalTransactionState.ROLLBACK_MESSAGE;
    private static final LocalTransactionState UNKNOWN = LocalTransactionState.UNKNOW;

    private final Bench bench;
    private final String topic;
    /** What consumers got, in the order in which it came. */
    private final List<MessageExt> consumed = new CopyOnWriteArrayList<>();
    private final Set<String> visible = ConcurrentHashMap.newKeySet();
    /** What a producer answers when it is asked about a key. */
    private final Map<String, LocalTransactionState> answers = new ConcurrentHashMap<>();
    /** The producers that were asked about a key. */
    private final Map<String, Set<String>> asked = new ConcurrentHashMap<>();
    /** Keys whose producer has said, or is about to say, that they are committed. */
    private final Set<String> committed = ConcurrentHashMap.newKeySet();
    private final AtomicReference<String> wrong = new AtomicReference<>();

    private Transactions(Bench bench) throws Exception {
        this.bench = bench;
        topic = bench.topic("topic", 4);
    }

    static void run(Bench bench) throws Exception {
        Transactions all = new Transactions(bench);
        all.consume();
        TransactionMQProducer first = all.producer("first");
        all.endedAtOnce(first);
        all.endedByCheck(first);
        all.endedByAnother(first);
        all.nothingElse();
    }

    /** Twenty of each kind. */
    private void endedAtOnce(TransactionMQProducer producer) throws Exception {
        for (int i = 0; i < 20; i++) {
            send(producer, "commit-" + i, COMMIT);
            send(producer, "rollback-" + i, ROLLBACK);
        }
        for (int i = 0; i < 20; i++) {
            awaitVisible("commit-" + i);
        }
    }

    private void endedByCheck(TransactionMQProducer producer) throws Exception {
        for (int i = 0; i < 5; i++) {
            answers.put("late-commit-" + i, COMMIT);
            answers.put("late-rollback-" + i, ROLLBACK);
            send(producer, "late-commit-" + i, UNKNOWN);
            send(producer, "late-rollback-" + i, UNKNOWN);
        }
        for (int i = 0; i < 5; i++) {
            awaitVisible("late-commit-" + i);
            String rolledBack = "late-rollback-" + i;
            Check.eventually(60_000, "a question about " + rolledBack, () -> asked.containsKey(rolledBack));
            Check.equal(Set.of("first"), asked.get("late-commit-" + i), "who was asked about late-commit-" + i);
        }
    }

    /** The first one knows nothing and stops; another of the same group is asked in its place. */
    private void endedByAnother(TransactionMQProducer first) throws Exception {
        send(first, "orphan", UNKNOWN);
        first.shutdown();
        answers.put("orphan", COMMIT);
        // A client that has sent nothing knows no broker, and no broker it.
        send(producer("second"), "commit-second", COMMIT);
        awaitVisible("orphan");
        Check.that(asked.get("orphan").contains("second"), "asked were %s", asked.get("orphan"));
    }

    private void nothingElse() throws Exception {
        // More than one round of checks: what is wrong would come by now.
        Thread.sleep(5_000);
        Check.that(wrong.get() == null, "%s", wrong.get());
        Check.equal(20 + 5 + 2, consumed.size(), "messages that came");
        Set<Long> halves = new HashSet<>();
        for (MessageExt message : consumed) {
            Check.that(!message.getKeys().contains("rollback"), "%s was rolled back and came", message.getKeys());
            Check.equal("body of " + message.getKeys(), Bench.body(message), "body");
            Check.equal("tag", message.getTags(), "tag");
            Check.equal(message.getMsgId(), message.getTransactionId(), "transaction's id");
            long half = message.getPreparedTransactionOffset();
            Check.that(half < message.getCommitLogOffset() && halves.add(half), "%s does not name its half message", message.getKeys());
        }
        Check.equal(27, bench.drain(topic, 27, 1000).size(), "messages that the topic holds");
    }

    private void send(TransactionMQProducer producer, String key, LocalTransactionState state) throws Exception {
        Message message = Bench.message(topic, "tag", key, "body of " + key);
        TransactionSendResult result = producer.sendMessageInTransaction(message, state);
        Check.equal(SendStatus.SEND_OK, result.getSendStatus(), "status of " + key);
        Check.equal(state, result.getLocalTransactionState(), "state of " + key);
        Check.equal(result.getMsgId(), result.getTransactionId(), "the id of the transaction of " + key);
        Check.equal(topic, result.getMessageQueue().getTopic(), "topic of " + key);
    }

    private void awaitVisible(String key) throws Exception {
        Check.eventually(60_000, key + " to come", () -> visible.contains(key));
    }

    private void consume() throws Exception {
        DefaultMQPushConsumer consumer = bench.pushConsumer(bench.name("readers"), topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                if (!committed.contains(message.getKeys())) {
                    wrong.compareAndSet(null, message.getKeys() + " came before anybody committed it");
                }
                consumed.add(message);
                visible.add(message.getKeys());
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    private TransactionMQProducer producer(String name) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer(bench.name("producers"));
        producer.setNamesrvAddr(bench.options.namesrv);
        producer.setInstanceName(Bench.freshInstance());
        producer.setSendMsgTimeout(5000);
        // The broker hears of a producer by its heartbeat, each 30 s by default.
        producer.setHeartbeatBrokerInterval(1000);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object state) {
                return said(message.getKeys(), (LocalTransactionState) state);
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return check(name, message);
            }
        });
        producer.start();
        bench.closing(producer::shutdown);
        return producer;
    }

    private LocalTransactionState check(String producer, MessageExt message) {
        String key = message.getKeys();
        if (!("body of " + key).equals(Bench.body(message)) || !topic.equals(message.getTopic())) {
            wrong.compareAndSet(null, "the question about " + key + " has the message of another: " + message);
        }
        if (message.getProperty(MessageConst.PROPERTY_TRANSACTION_CHECK_TIMES) == null) {
            wrong.compareAndSet(null, "the question about " + key + " does not say which it is");
        }
        asked.computeIfAbsent(key, k -> ConcurrentHashMap.newKeySet()).add(producer);
        if (key.startsWith("commit")) {
            return said(key, COMMIT);
        }
        return said(key, key.startsWith("rollback") ? ROLLBACK : answers.getOrDefault(key, UNKNOWN));
    }

    private LocalTransactionState said(String key, LocalTransactionState state) {
        if (state == COMMIT) {
            committed.add(key);
        }
        return state;
    }
}
