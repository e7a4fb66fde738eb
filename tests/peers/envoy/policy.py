"""Envoy's external authorization and rate limit service by grpcio and Envoy's own messages, and a gRPC service and
client beside them. Driven over standard input as the other peers are: a number, a command and fields, by tabs."""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc as auth_grpc
from envoy.service.ratelimit.v3 import rls_pb2 as rls
from envoy.service.ratelimit.v3 import rls_pb2_grpc as rls_grpc
from envoy.type.v3 import http_status_pb2
from google.protobuf.json_format import MessageToDict

lock = threading.Lock()
state = {"delay": 0.0, "header": "", "asked": [], "open": 0, "most": 0}
counted = {}


def say(number, **answer):
    with lock:
        print(json.dumps({"id": number, **answer}), flush=True)


def took(request):
    with lock:
        state["asked"].append(MessageToDict(request))
        del state["asked"][:-100]
        state["open"] += 1
        state["most"] = max(state["most"], state["open"])
        delay = state["delay"]
    time.sleep(delay)
    with lock:
        state["open"] -= 1


def option(name, value):
    return base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value))


class Authorization(auth_grpc.AuthorizationServicer):
    """What is asked for stands in the name of the method, in the path, or in the context as `verdict`."""

    def Check(self, request, context):
        took(request)
        http = request.attributes.request.http
        wanted = http.path.split("?")[0].rsplit("/", 1)[-1]
        wanted = request.attributes.context_extensions.get("verdict", wanted)
        if wanted in ("noted", "denied"):
            denied = auth.DeniedHttpResponse(
                status=http_status_pb2.HttpStatus(code=403), body="not on a\r\nSunday"
            )
            answer = auth.CheckResponse(denied_response=denied)
            answer.status.code = 7
            return answer
        if wanted in ("measure", "limited"):
            denied = auth.DeniedHttpResponse(status=http_status_pb2.HttpStatus(code=429))
            denied.headers.append(option("Retry-After", "7"))
            answer = auth.CheckResponse(denied_response=denied)
            answer.status.code = 8
            return answer
        if wanted == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "no idea")
        answer = auth.CheckResponse()
        answer.ok_response.headers.append(option("x-user", "alice"))
        answer.ok_response.headers_to_remove.append("x-secret")
        if state["header"]:
            answer.ok_response.headers.append(option(state["header"], "evil"))
        return answer


class RateLimits(rls_grpc.RateLimitServiceServicer):
    """A descriptor may be counted as often as its entry `limit` says."""

    def ShouldRateLimit(self, request, context):
        took(request)
        answer = rls.RateLimitResponse(overall_code=rls.RateLimitResponse.OK)
        for descriptor in request.descriptors:
            entries = {own.key: own.value for own in descriptor.entries}
            key = (request.domain, json.dumps(entries, sort_keys=True))
            with lock:
                counted[key] = counted.get(key, 0) + request.hits_addend
                over = counted[key] > int(entries.get("limit", "1000000"))
            status = answer.statuses.add(code=rls.RateLimitResponse.OVER_LIMIT if over else rls.RateLimitResponse.OK)
            status.duration_until_reset.seconds = 30
            if over:
                answer.overall_code = rls.RateLimitResponse.OVER_LIMIT
        return answer


def plain(bytes_):
    return bytes_


class Service(grpc.GenericRpcHandler):
    """Says what metadata it was called with, and by which port; `sleep` takes its time."""

    port = 0

    def service(self, details):
        if not details.method.startswith("/acme."):
            return None

        def echo(request, context):
            said = dict(context.invocation_metadata())
            if details.method.endswith("/sleep"):
                time.sleep(float(said["seconds"]))
            return json.dumps({**said, "server-port": self.port}).encode()

        return grpc.unary_unary_rpc_method_handler(echo, plain, plain)


def serve(port, key=None, chain=None):
    server = grpc.server(ThreadPoolExecutor(max_workers=64))
    auth_grpc.add_AuthorizationServicer_to_server(Authorization(), server)
    rls_grpc.add_RateLimitServiceServicer_to_server(RateLimits(), server)
    service = Service()
    server.add_generic_rpc_handlers((service,))
    address = "127.0.0.1:%s" % port
    if key:
        pair = (open(key, "rb").read(), open(chain, "rb").read())
        port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port(address)
    service.port = port
    server.start()
    return server, port


def call(fields):
    metadata = [tuple(own.split("=", 1)) for own in fields.get("metadata", "").split(",") if own]
    with grpc.insecure_channel(fields["address"]) as channel:
        method = channel.unary_unary(fields["method"], plain, plain)
        try:
            timeout = float(fields.get("timeout", "10"))
            return {"said": json.loads(method(b"", timeout=timeout, metadata=metadata))}
        except grpc.RpcError as error:
            trailers = {key: str(value) for key, value in error.trailing_metadata() or ()}
            return {"code": error.code().name, "details": error.details(), "trailers": trailers}


def main():
    own = sys.argv[1:] + ["0"]
    server, port = serve(*own[:3] if len(own) > 3 else own[:1])
    say(0, ok=True, value=port)
    for line in sys.stdin:
        number, command, *fields = line.rstrip("\n").split("\t")
        fields = dict(own.split("=", 1) for own in fields)
        value = None
        if command == "set":
            with lock:
                state["delay"] = float(fields.get("delay", "0"))
                state["header"] = fields.get("header", "")
        elif command == "asked":
            with lock:
                value = {"asked": list(state["asked"]), "most": state["most"]}
                state["asked"].clear()
        elif command == "call":
            # Several at a time, should one take long.
            threading.Thread(target=lambda n=number, f=fields: say(int(n), ok=True, value=call(f)), daemon=True).start()
            continue
        say(int(number), ok=True, value=value)


main()
