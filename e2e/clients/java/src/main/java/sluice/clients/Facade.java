package sluice.clients;

import io.netty.channel.ChannelHandlerContext;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.apache.rocketmq.remoting.netty.NettyClientConfig;
import org.apache.rocketmq.remoting.netty.NettyRemotingClient;
import org.apache.rocketmq.remoting.netty.NettyRemotingServer;
import org.apache.rocketmq.remoting.netty.NettyRequestProcessor;
import org.apache.rocketmq.remoting.netty.NettyServerConfig;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RequestCode;
import org.apache.rocketmq.remoting.protocol.ResponseCode;
import org.apache.rocketmq.remoting.protocol.route.BrokerData;
import org.apache.rocketmq.remoting.protocol.route.TopicRouteData;

/**
 * A server that passes each request on to the real one, after {@link Intercept} had a look at it. With it a client can be led
 * through a port of ours (the routes are rewritten) and a broker can be made to fail on purpose.
 */
final class Facade implements AutoCloseable {
    /** May answer in the real server's place; null passes the request on; {@link #DROP} closes the connection. */
    interface Intercept {
        RemotingCommand answer(RemotingCommand request);
    }

    static final RemotingCommand DROP = RemotingCommand.createResponseCommand(ResponseCode.SYSTEM_ERROR, "drop");

    private final NettyRemotingServer server;
    private final NettyRemotingClient client = new NettyRemotingClient(new NettyClientConfig());
    private final ExecutorService threads = Executors.newFixedThreadPool(8);

    /** A broker's facade. */
    static Facade broker(String real, Intercept intercept) {
        return new Facade(real, intercept, null);
    }

    /** A name server's facade: every broker address in a route becomes {@code brokerAddress}. */
    static Facade nameServer(String real, String brokerAddress) {
        return new Facade(real, request -> null, brokerAddress);
    }

    private Facade(String real, Intercept intercept, String brokerAddress) {
        NettyServerConfig config = new NettyServerConfig();
        config.setBindAddress("127.0.0.1");
        config.setListenPort(0);
        server = new NettyRemotingServer(config);
        client.start();
        server.registerDefaultProcessor(new NettyRequestProcessor() {
            @Override
            public RemotingCommand processRequest(ChannelHandlerContext context, RemotingCommand request) throws Exception {
                RemotingCommand answer = intercept.answer(request);
                if (answer == DROP) {
                    context.channel().close();
                    return null;
                }
                if (answer == null) {
                    answer = passOn(real, request);
                    if (answer != null && brokerAddress != null && request.getCode() == RequestCode.GET_ROUTEINFO_BY_TOPIC) {
                        rewrite(answer, brokerAddress);
                    }
                }
                return answer;
            }

            @Override
            public boolean rejectRequest() {
                return false;
            }
        }, threads);
        server.start();
    }

    String address() {
        return "127.0.0.1:" + server.localListenPort();
    }

    private RemotingCommand passOn(String real, RemotingCommand request) throws Exception {
        RemotingCommand copy = RemotingCommand.createRequestCommand(request.getCode(), null);
        copy.setExtFields(request.getExtFields());
        copy.setBody(request.getBody());
        copy.setVersion(request.getVersion());
        copy.setLanguage(request.getLanguage());
        if (request.isOnewayRPC()) {
            client.invokeOneway(real, copy, 5000);
            return null;
        }
        return client.invokeSync(real, copy, 5000);
    }

    private static void rewrite(RemotingCommand answer, String brokerAddress) {
        if (answer.getCode() != ResponseCode.SUCCESS) {
            return;
        }
        TopicRouteData route = TopicRouteData.decode(answer.getBody(), TopicRouteData.class);
        for (BrokerData broker : route.getBrokerDatas()) {
            broker.getBrokerAddrs().replaceAll((id, address) -> brokerAddress);
        }
        answer.setBody(route.encode());
    }

    @Override
    public void close() {
        server.shutdown();
        client.shutdown();
        threads.shutdownNow();
    }
}
