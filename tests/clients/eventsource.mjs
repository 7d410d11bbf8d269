// Receives a stream as a browser does, with the npm package `eventsource`, which reconnects by itself. Prints each
// message as one line of JSON.
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
const print = ({ type, lastEventId, data }) => console.log(JSON.stringify({ type, id: lastEventId, data }));
for (const type of ["message", "caught-up", "gap", "closing"]) {
  source.addEventListener(type, print);
}

// A wait to reconnect does not keep the process alive.
setInterval(() => {}, 60_000);
