// The client and the server of the package `ws`; see commands.py.

import { once } from "node:events";
import { createInterface } from "node:readline";
import { WebSocket, WebSocketServer } from "ws";

const PROTOCOLS = ["v2.gws", "v1.gws"];
const load = message => "text" in message ? message.text : Buffer.from(message.base64, "base64");
const dump = (data, binary) => binary ? { base64: data.toString("base64") } : { text: data.toString() };
const say = answer => process.stdout.write(JSON.stringify(answer) + "\n");

let ws, heard, hearing;   // the connection; what has come and nobody has asked for; who waits for something to come
const arrived = [];

function adopt(connection) {
  ws = connection;
  heard = [];
  hearing = null;
  const hear = what => { heard.push(what); hearing?.(); };
  ws.on("message", (data, binary) => hear(dump(data, binary)));
  ws.on("close", (code, reason) => hear({ closed: code === 1006 ? null : [code, reason.toString()] }));
  ws.on("error", () => {});
  return { protocol: ws.protocol || null };
}

const commands = {
  async connect({ url, protocols }) {
    const connection = new WebSocket(url, protocols);
    const answer = adopt(connection);
    await once(connection, "open");
    return { ...answer, protocol: connection.protocol || null };
  },
  async accept() {
    while (!arrived.length) await once(server, "connection");
    return arrived.shift();
  },
  async send({ messages }) {
    for (const message of messages) ws.send(load(message));
  },
  async fragments({ pieces }) {
    pieces.forEach((piece, at) => ws.send(load(piece), { fin: at === pieces.length - 1, binary: "base64" in pieces[0] }));
  },
  async recv() {
    while (!heard.length) await new Promise(resolve => { hearing = resolve; });
    return heard.shift();
  },
  async ping({ payload }) {
    ws.ping(payload);
    const [pong] = await once(ws, "pong");
    if (pong.toString() !== payload) throw new Error(`pong ${pong}`);
  },
  async close({ code, reason }) {
    ws.close(code, reason);
    let answer;
    do answer = await commands.recv(); while (!("closed" in answer));
    return answer;
  },
  async raw({ base64 }) {
    ws._socket.write(Buffer.from(base64, "base64"));
  },
  async drop() {
    ws.terminate();
  },
};

let server;
if (process.argv[2] === "server") {
  server = new WebSocketServer({
    host: "127.0.0.1",
    port: 0,
    perMessageDeflate: true,
    handleProtocols: offered => [...offered].find(protocol => PROTOCOLS.includes(protocol)) ?? false,
  });
  server.on("connection", connection => arrived.push(adopt(connection)));
  await once(server, "listening");
  say({ port: server.address().port });
}

for await (const line of createInterface({ input: process.stdin })) {
  const { do: command, ...options } = JSON.parse(line);
  say(await commands[command](options).catch(error => ({ failed: String(error) })) ?? {});
}
process.exit(0);
