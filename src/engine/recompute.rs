//! Parts of a computation whose gradients compute them again.
//!
//! MLX keeps the intermediate values of the way forward until the way back has used them. Of a part that is made here only the
//! inputs stay, and its values are computed again when the gradients of its outputs are there.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::transforms::fallible_vjp;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use crate::error::{Error, Result};

type Function = dyn Fn(&[Array]) -> Result<Vec<Array>> + Send + Sync;

thread_local! {
    /// Error of a function that MLX has called on this thread. MLX itself hands on only that there was one.
    static CAUSE: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Computes gradients of `function`, which MLX calls, at `primals`: those of its outputs are `cotangents`.
///
/// # Errors
/// When the function fails, or a part of it that is computed again: with its own error.
pub(crate) fn vjp(
    mut function: impl FnMut(&[Array]) -> Result<Vec<Array>>,
    primals: &[Array],
    cotangents: &[Array],
) -> Result<Vec<Array>> {
    CAUSE.take();
    let value = |primals: &[Array]| {
        function(primals).map_err(|error| {
            let exception = Exception::custom(error.to_string());
            CAUSE.set(Some(error));
            exception
        })
    };
    let result = fallible_vjp(value, primals, cotangents);
    result
        .map(|(_, gradients)| gradients)
        .map_err(|exception| CAUSE.take().unwrap_or_else(|| exception.into()))
}

/// Computes `function` of `inputs`. Its gradients compute it again. It may have no other arrays than its inputs.
pub(crate) fn recomputed(
    inputs: &[Array],
    function: impl Fn(&[Array]) -> Result<Vec<Array>> + Send + Sync + 'static,
) -> Result<Vec<Array>> {
    CAUSE.take();
    let function: Arc<Function> = Arc::new(function);
    // SAFETY: MLX shares what it is given a closure of, calls it with the arrays it was made for, and frees its payload once.
    // The handles are fresh, and all but the results are freed here.
    unsafe {
        let plain =
            mlx_sys::mlx_closure_new_func_payload(Some(compute), payload(&function), Some(free_payload));
        let backward = mlx_sys::mlx_closure_custom_new_func_payload(
            Some(differentiate),
            payload(&function),
            Some(free_payload),
        );
        let mut closure = mlx_sys::mlx_closure_new();
        let arguments = vector(inputs);
        let mut results = mlx_sys::mlx_vector_array_new();
        let mut status = mlx_sys::mlx_custom_vjp(&raw mut closure, plain, backward);
        if status == 0 {
            status = mlx_sys::mlx_closure_apply(&raw mut results, closure, arguments);
        }
        let outputs = arrays(results);
        mlx_sys::mlx_vector_array_free(results);
        mlx_sys::mlx_vector_array_free(arguments);
        mlx_sys::mlx_closure_free(closure);
        mlx_sys::mlx_closure_custom_free(backward);
        mlx_sys::mlx_closure_free(plain);
        if status == 0 {
            return Ok(outputs);
        }
        Err(CAUSE.take().unwrap_or_else(|| Error::engine("a part that is computed again failed")))
    }
}

fn payload(function: &Arc<Function>) -> *mut c_void {
    Box::into_raw(Box::new(Arc::clone(function))).cast()
}

unsafe extern "C" fn free_payload(payload: *mut c_void) {
    // SAFETY: `payload` is a box made by `payload`, and MLX calls this once.
    drop(unsafe { Box::from_raw(payload.cast::<Arc<Function>>()) });
}

unsafe extern "C" fn compute(
    results: *mut mlx_sys::mlx_vector_array,
    inputs: mlx_sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    // SAFETY: `payload` is a box made by `payload`, which lives as long as the closure.
    unsafe {
        let function = &*payload.cast::<Arc<Function>>();
        put(results, function(&arrays(inputs)))
    }
}

unsafe extern "C" fn differentiate(
    results: *mut mlx_sys::mlx_vector_array,
    inputs: mlx_sys::mlx_vector_array,
    cotangents: mlx_sys::mlx_vector_array,
    _outputs: mlx_sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    // SAFETY: `payload` is a box made by `payload`, which lives as long as the closure; the vectors are MLX's own.
    unsafe {
        let function = &*payload.cast::<Arc<Function>>();
        // Without this MLX may compute again what is not needed yet.
        let mut late = mlx_sys::mlx_vector_array_new();
        let status = mlx_sys::mlx_depends(&raw mut late, inputs, cotangents);
        let primals = arrays(late);
        mlx_sys::mlx_vector_array_free(late);
        if status != 0 {
            return status;
        }
        put(results, vjp(&**function, &primals, &arrays(cotangents)))
    }
}

/// Hands the arrays of a result to MLX and returns its status. An error is kept as the cause of MLX's own.
unsafe fn put(results: *mut mlx_sys::mlx_vector_array, outputs: Result<Vec<Array>>) -> c_int {
    let outputs = match outputs {
        Ok(outputs) => outputs,
        Err(error) => {
            CAUSE.set(Some(error));
            return 1;
        }
    };
    let handles: Vec<mlx_sys::mlx_array> = outputs.iter().map(Array::as_ptr).collect();
    // SAFETY: MLX gives a vector to fill, and shares the arrays.
    unsafe { mlx_sys::mlx_vector_array_set_data(results, handles.as_ptr(), handles.len()) }
}

/// Makes MLX's vector of arrays, which it shares.
fn vector(arrays: &[Array]) -> mlx_sys::mlx_vector_array {
    let handles: Vec<mlx_sys::mlx_array> = arrays.iter().map(Array::as_ptr).collect();
    // SAFETY: live handles and their number.
    unsafe { mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len()) }
}

/// Returns the arrays of MLX's vector.
unsafe fn arrays(vector: mlx_sys::mlx_vector_array) -> Vec<Array> {
    // SAFETY: the vector is alive; each array is a new handle, owned here.
    unsafe {
        let count = mlx_sys::mlx_vector_array_size(vector);
        let get = |index| {
            let mut array = mlx_sys::mlx_array_new();
            mlx_sys::mlx_vector_array_get(&raw mut array, vector, index);
            Array::from_ptr(array)
        };
        (0..count).map(get).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::engine::array::{from_vec, to_vec};
    use crate::engine::runtime::Engine;
    use crate::error::ErrorKind;

    #[test]
    fn gradients_are_those_of_the_function() {
        let _engine = Engine::start().unwrap();
        let function = |inputs: &[Array]| -> Result<Vec<Array>> {
            let product = inputs[0].multiply(&inputs[1])?;
            Ok(vec![mlx_rs::ops::tanh(&product)?, inputs[1].clone()])
        };
        let inputs = [from_vec(vec![0.5, -1.0], &[2]), from_vec(vec![2.0, 0.25], &[2])];
        let cotangents = [from_vec(vec![1.0, 2.0], &[2]), from_vec(vec![-1.0, 3.0], &[2])];
        let gradients = |again: bool| -> Vec<Vec<f32>> {
            let value =
                |primals: &[Array]| if again { recomputed(primals, function) } else { function(primals) };
            let gradients = vjp(value, &inputs, &cotangents).unwrap();
            gradients.iter().map(|gradient| to_vec(gradient).unwrap()).collect()
        };
        assert_eq!(gradients(true), gradients(false));
    }

    #[test]
    fn failure_has_its_cause() {
        let _engine = Engine::start().unwrap();
        let failing = |_: &[Array]| Err(Error::engine("no").hint("never"));
        let one = [from_vec(vec![1.0], &[1])];
        let error = recomputed(&one, failing).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.hint_text()), ("engine: no", Some("never")));
        assert_eq!(vjp(failing, &one, &one).unwrap_err().hint_text(), Some("never"));
    }

    #[test]
    fn failure_on_the_way_back_has_its_cause() {
        let _engine = Engine::start().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let one = [from_vec(vec![1.0], &[1])];
        let value = |primals: &[Array]| {
            let calls = Arc::clone(&calls);
            recomputed(primals, move |inputs| match calls.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(vec![mlx_rs::ops::tanh(&inputs[0])?]),
                _ => Err(Error::interrupted()),
            })
        };
        let error = vjp(value, &one, &one).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Interrupted), "{error:?}");
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
