/**
 * Amounts in words. The browser knows currencies, too, but with the digits of shop signs, not those of ISO
 * 4217.
 */

import { EXPONENTS } from "/currencies.js";

/**
 * @param {number} amount  In the currency's smallest unit.
 * @param {string} currency
 * @returns {string} The same in major units; where nobody knows the digits, only the smallest unit is sure.
 */
export function inWords(amount, currency) {
  const digits = EXPONENTS[currency];
  if (digits === undefined) return `${amount.toLocaleString()} smallest units of ${currency}`;
  // as text, for it may be larger than what divides exactly
  const text = String(Math.abs(amount)).padStart(digits + 1, "0");
  const fraction = digits ? `.${text.slice(-digits)}` : "";
  return `${amount < 0 ? "-" : ""}${text.slice(0, text.length - digits)}${fraction} ${currency}`;
}
