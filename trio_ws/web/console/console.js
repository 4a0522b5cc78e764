/** The console: what the address names is shown, the overview or one invoice. */

import { byId } from "./elements.js";
import { drawFigures } from "./figures.js";
import { mindFollowing } from "./following.js";
import { showInvoice } from "./invoice.js";
import { mindRequests } from "./requests.js";
import { minds } from "./session.js";

minds();
const [, uid] = location.pathname.match(/^\/console\/invoice\/(.+)$/) ?? [];
if (uid) {
  byId("invoice").hidden = false;
  showInvoice(uid);
} else {
  byId("overview").hidden = false;
  mindFollowing();
  mindRequests();
  drawFigures();
}
