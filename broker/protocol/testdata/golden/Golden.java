import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.*;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.compression.CompressorFactory;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.remoting.CommandCustomHeader;
import org.apache.rocketmq.remoting.protocol.*;
import org.apache.rocketmq.remoting.protocol.body.*;
import org.apache.rocketmq.remoting.protocol.header.*;
import org.apache.rocketmq.remoting.protocol.header.namesrv.RegisterBrokerRequestHeader;
import org.apache.rocketmq.remoting.protocol.heartbeat.*;
import org.apache.rocketmq.remoting.protocol.route.*;
import org.apache.rocketmq.store.MessageExtEncoder;
import org.apache.rocketmq.store.config.MessageStoreConfig;

/** Writes the bytes that the official client and broker would, for fixed inputs, into the directory given. */
public final class Golden {
    private static final long NOW = 1_700_000_000_123L;
    private static Path directory;

    public static void main(String[] args) throws Exception {
        System.setProperty(RemotingCommand.REMOTING_VERSION_KEY, "513");
        directory = Path.of(args[0]);
        requests();
        bodies();
        records();
        compressed();
    }

    private static void write(String name, byte[] bytes) throws Exception {
        Files.write(directory.resolve(name + ".bin"), bytes);
    }

    private static void frame(String name, int code, CommandCustomHeader header, byte[] body) throws Exception {
        frame(name, RemotingCommand.createRequestCommand(code, header), body);
    }

    /** In both forms. */
    private static void frame(String name, RemotingCommand command, byte[] body) throws Exception {
        command.setOpaque(42);
        command.setBody(body);
        for (SerializeType type : SerializeType.values()) {
            command.setSerializeTypeCurrentRPC(type);
            ByteBuffer buffer = command.encode();
            byte[] bytes = new byte[buffer.remaining()];
            buffer.get(bytes);
            write("frame-" + name + (type == SerializeType.JSON ? "-json" : "-binary"), bytes);
        }
    }

    private static void requests() throws Exception {
        SendMessageRequestHeader send = new SendMessageRequestHeader();
        send.setProducerGroup("producers");
        send.setTopic("orders");
        send.setDefaultTopic("TBW102");
        send.setDefaultTopicQueueNums(4);
        send.setQueueId(3);
        send.setSysFlag(0);
        send.setBornTimestamp(NOW);
        send.setFlag(-7);
        send.setProperties("KEYS\u0001k \"1\" \\\u0002TAGS\u0001grün 😀\n\u0002");
        send.setReconsumeTimes(0);
        send.setUnitMode(false);
        send.setMaxReconsumeTimes(16);
        send.setBatch(false);
        byte[] body = "hello, golden".getBytes(StandardCharsets.UTF_8);
        frame("send", RequestCode.SEND_MESSAGE, send, body);
        frame("send-v2", RequestCode.SEND_MESSAGE_V2, SendMessageRequestHeaderV2.createSendMessageRequestHeaderV2(send), body);

        PullMessageRequestHeader pull = new PullMessageRequestHeader();
        pull.setConsumerGroup("consumers");
        pull.setTopic("orders");
        pull.setQueueId(3);
        pull.setQueueOffset(1234567890123L);
        pull.setMaxMsgNums(32);
        pull.setSysFlag(7);
        pull.setCommitOffset(-1L);
        pull.setSuspendTimeoutMillis(15000L);
        pull.setSubscription("TagA || TagB");
        pull.setSubVersion(NOW);
        pull.setExpressionType("TAG");
        frame("pull", RequestCode.PULL_MESSAGE, pull, null);

        QueryConsumerOffsetRequestHeader offset = new QueryConsumerOffsetRequestHeader();
        offset.setConsumerGroup("consumers");
        offset.setTopic("orders");
        offset.setQueueId(0);
        frame("query-offset", RequestCode.QUERY_CONSUMER_OFFSET, offset, null);

        EndTransactionRequestHeader end = new EndTransactionRequestHeader();
        end.setTopic("orders");
        end.setProducerGroup("producers");
        end.setTranStateTableOffset(5L);
        end.setCommitLogOffset(6L);
        end.setCommitOrRollback(8);
        end.setFromTransactionCheck(true);
        end.setMsgId("7F0000010007AABBCCDD010203040005");
        RemotingCommand oneway = RemotingCommand.createRequestCommand(RequestCode.END_TRANSACTION, end);
        oneway.markOnewayRPC();
        frame("end-transaction", oneway, null);

        RemotingCommand response = RemotingCommand.createResponseCommand(SendMessageResponseHeader.class);
        SendMessageResponseHeader answer = (SendMessageResponseHeader) response.readCustomHeader();
        answer.setMsgId("7F00000100002A9F0000000000001234");
        answer.setQueueId(3);
        answer.setQueueOffset(99L);
        response.setCode(ResponseCode.SUCCESS);
        response.setRemark(null);
        frame("send-response", response, null);
        frame("error-response", RemotingCommand.createResponseCommand(ResponseCode.TOPIC_NOT_EXIST, "topic[\"a\\b\"] not exist\n"), null);
    }

    private static void bodies() throws Exception {
        HeartbeatData heartbeat = new HeartbeatData();
        heartbeat.setClientID("10.0.0.1@7#8");
        ProducerData producer = new ProducerData();
        producer.setGroupName("producers");
        heartbeat.getProducerDataSet().add(producer);
        ConsumerData consumer = new ConsumerData();
        consumer.setGroupName("consumers");
        consumer.setConsumeType(ConsumeType.CONSUME_PASSIVELY);
        consumer.setMessageModel(MessageModel.CLUSTERING);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        SubscriptionData subscription = org.apache.rocketmq.remoting.protocol.filter.FilterAPI.buildSubscriptionData("orders", "TagA || TagB");
        subscription.setSubVersion(NOW);
        consumer.getSubscriptionDataSet().add(subscription);
        heartbeat.getConsumerDataSet().add(consumer);
        frame("heartbeat", RequestCode.HEART_BEAT, null, heartbeat.encode());

        LockBatchRequestBody lock = new LockBatchRequestBody();
        lock.setConsumerGroup("consumers");
        lock.setClientId("10.0.0.1@7#8");
        lock.getMqSet().add(new MessageQueue("orders", "broker-a", 3));
        frame("lock", RequestCode.LOCK_BATCH_MQ, null, lock.encode());

        TopicRouteData route = new TopicRouteData();
        QueueData queue = new QueueData();
        queue.setBrokerName("broker-a");
        queue.setReadQueueNums(4);
        queue.setWriteQueueNums(8);
        queue.setPerm(6);
        route.setQueueDatas(List.of(queue));
        HashMap<Long, String> addresses = new HashMap<>(Map.of(0L, "127.0.0.1:10911", 1L, "127.0.0.1:10921"));
        BrokerData broker = new BrokerData("DefaultCluster", "broker-a", addresses);
        route.setBrokerDatas(List.of(broker));
        route.setFilterServerTable(new HashMap<>());
        write("body-route", route.encode());

        ClusterInfo cluster = new ClusterInfo();
        cluster.setBrokerAddrTable(new HashMap<>(Map.of("broker-a", broker)));
        cluster.setClusterAddrTable(new HashMap<>(Map.of("DefaultCluster", Set.of("broker-a"))));
        write("body-cluster", cluster.encode());

        org.apache.rocketmq.remoting.protocol.admin.ConsumeStats stats = new org.apache.rocketmq.remoting.protocol.admin.ConsumeStats();
        org.apache.rocketmq.remoting.protocol.admin.OffsetWrapper wrapper = new org.apache.rocketmq.remoting.protocol.admin.OffsetWrapper();
        wrapper.setBrokerOffset(9);
        wrapper.setConsumerOffset(4);
        stats.getOffsetTable().put(new MessageQueue("orders", "broker-a", 3), wrapper);
        write("body-consume-stats", stats.encode());

        RegisterBrokerBody registration = new RegisterBrokerBody();
        TopicConfig config = new TopicConfig("orders", 4, 8, 6);
        config.getAttributes().put("message.type", "FIFO");
        registration.getTopicConfigSerializeWrapper().getTopicConfigTable().put("orders", config);
        DataVersion version = registration.getTopicConfigSerializeWrapper().getDataVersion();
        version.setTimestamp(NOW);
        version.setCounter(new java.util.concurrent.atomic.AtomicLong(12));
        registration.getTopicConfigSerializeWrapper().setMappingDataVersion(version);
        for (boolean compress : new boolean[] {false, true}) {
            byte[] bytes = registration.encode(compress);
            RegisterBrokerRequestHeader header = new RegisterBrokerRequestHeader();
            header.setBrokerName("broker-a");
            header.setBrokerAddr("127.0.0.1:10911");
            header.setClusterName("DefaultCluster");
            header.setHaServerAddr("127.0.0.1:10912");
            header.setBrokerId(0L);
            header.setCompressed(compress);
            header.setBodyCrc32(UtilAll.crc32(bytes));
            frame(compress ? "register-compressed" : "register", RequestCode.REGISTER_BROKER, header, bytes);
        }

        Message first = new Message("orders", "TagA", "k1", "first".getBytes(StandardCharsets.UTF_8));
        first.setFlag(5);
        Message second = new Message("orders", "second".getBytes(StandardCharsets.UTF_8));
        second.setWaitStoreMsgOK(false);
        Message third = new Message();
        third.setTopic("orders");
        third.setBody(new byte[0]);
        write("batch", MessageDecoder.encodeMessages(List.of(first, second, third)));
    }

    private static InetSocketAddress host(String ip, int port) throws Exception {
        return new InetSocketAddress(InetAddress.getByName(ip), port);
    }

    /** The store's own encoder, then what the log's writer fills in. */
    private static void records() throws Exception {
        record("v1", "orders", host("10.1.2.3", 4567), host("127.0.0.1", 10911));
        record("v1-ipv6", "orders", host("2001:db8::1", 4567), host("2001:db8::2", 10911));
        record("v2", "t".repeat(200), host("10.1.2.3", 4567), host("127.0.0.1", 10911));
        StringBuilder ids = new StringBuilder();
        ids.append(MessageDecoder.createMessageId(host("127.0.0.1", 10911), 0x1234)).append('\n');
        ids.append(MessageDecoder.createMessageId(host("2001:db8::2", 10911), Long.MAX_VALUE)).append('\n');
        Files.writeString(directory.resolve("message-ids.txt"), ids);
        StringBuilder hashes = new StringBuilder();
        for (String text : List.of("", "TagA", "TagB", "grün", "😀😀", "a much longer tag that overflows thirty-two bits")) {
            hashes.append(text.hashCode()).append(' ').append(text).append('\n');
        }
        Files.writeString(directory.resolve("java-hashes.txt"), hashes);
    }

    private static void record(String name, String topic, InetSocketAddress born, InetSocketAddress store) throws Exception {
        MessageExtBrokerInner message = new MessageExtBrokerInner();
        message.setTopic(topic);
        message.setBody("stored body".getBytes(StandardCharsets.UTF_8));
        message.setBodyCRC(UtilAll.crc32(message.getBody()));
        message.setQueueId(3);
        message.setFlag(9);
        message.setSysFlag(0);
        message.setBornTimestamp(NOW);
        message.setBornHost(born);
        message.setStoreHost(store);
        if (born.getAddress().getAddress().length == 16) {
            message.setBornHostV6Flag();
            message.setStoreHostAddressV6Flag();
        }
        message.setStoreTimestamp(NOW + 333);
        message.setReconsumeTimes(2);
        message.setPreparedTransactionOffset(77);
        message.setVersion(topic.length() > 127 ? MessageVersion.MESSAGE_VERSION_V2 : MessageVersion.MESSAGE_VERSION_V1);
        message.setPropertiesString("TAGS\u0001TagA\u0002");
        MessageStoreConfig config = new MessageStoreConfig();
        config.setEnabledAppendPropCRC(true);
        MessageExtEncoder encoder = new MessageExtEncoder(4096, config);
        if (encoder.encode(message) != null) {
            throw new IllegalStateException("not encoded");
        }
        ByteBuffer buffer = encoder.getEncoderBuffer();
        byte[] bytes = new byte[buffer.getInt(0)];
        buffer.get(bytes);
        ByteBuffer sealed = ByteBuffer.wrap(bytes);
        sealed.putLong(MessageDecoder.QUEUE_OFFSET_POSITION, 5);
        sealed.putLong(MessageDecoder.PHY_POS_POSITION, 4096);
        int checked = bytes.length - 20;
        sealed.position(checked);
        MessageDecoder.createCrc32(sealed, UtilAll.crc32(Arrays.copyOf(bytes, checked)));
        write("record-" + name, bytes);
    }

    private static void compressed() throws Exception {
        byte[] text = "all work and no play makes a dull golden file. ".repeat(200).getBytes(StandardCharsets.UTF_8);
        for (CompressionType type : CompressionType.values()) {
            write("compressed-" + type.name().toLowerCase(Locale.ROOT), CompressorFactory.getCompressor(type).compress(text, 5));
        }
    }
}
